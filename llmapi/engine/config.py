"""What an engine is started with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything that the engine process must know before it loads a model. Crosses the pipe
    pickled."""

    base_model: str
    """A local directory in Hugging Face format, a .gguf file, or a hub id (`org/name`)."""

    cache_dir: str
    """Where converted models are kept; made if missing."""

    tokenizer_path: str | None = None
    """A directory (or hub id) whose tokenizer replaces the model's own."""

    lora_model: str | None = None
    """A local directory (or hub id) with a LoRA adapter, which becomes a part of the base model."""

    adapters: tuple[tuple[str, str], ...] = ()
    """(name, local directory) of LoRA adapters that are served beside the base model, each under a
    name of its own. The web process has them loaded once the engine is ready."""

    served_name: str | None = None
    """The model id shown to clients; None: taken from the model's own name."""

    dtype: str = "auto"
    """`auto` (float32 on CPU, the checkpoint's own half precision on a GPU), `float32`, `bfloat16`,
    `float16`."""

    load_in_8bit: bool = False
    """Weights of 8 bits: bitsandbytes' on a GPU; on a CPU int8 in groups, with activations
    quantised by row and group."""

    load_in_4bit: bool = False
    """Weights of 4 bits, by bitsandbytes; GPUs only."""

    decoder: str = "auto"
    """How the model is computed: `native` (C, LLaMA family, CPU), `fused` (torch, LLaMA family),
    `generic` (transformers' layers); `auto`: the first of them that can."""

    device: str = "auto"
    """`auto` (a GPU if torch sees one), `cpu`, `cuda`, `cuda:1`."""

    gpus: tuple[int, ...] = ()
    """Numbers of the GPUs over which the layers are spread, if there are several; `device` is the
    first."""

    threads: int | None = None
    """Threads of the CPU; None: torch's own choice, within a container's quota."""

    max_batch: int = 32
    """Sequences that may decode together."""

    step_tokens: int = 512
    """Token budget of one forward pass: decoding sequences first, then chunks of prompts."""

    prompt_stretch: float | None = 2.25
    """How many times as long as decoding alone a step may take, so that a prompt gets on beside
    running answers; None: as long as `step_tokens` make it."""

    fair_stretch: float = 1.75
    """How many times as long as alone a step may take for the user who wants least, because of what
    others want."""

    kv_cache_tokens: int | None = None
    """Positions that the key/value cache holds for all sequences together; None: from free
    memory."""

    context_length: int | None = None
    """Longest prompt plus answer, in tokens; None: what the model was made for."""
