"""From a configuration to an engine that is ready: finding, converting, loading and measuring the
model."""

import json
import pickle
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from llmapi.engine import merging
from llmapi.engine.attention import UnsupportedModel
from llmapi.engine.checks import (
    NO_GPU,
    check_memory,
    check_settings,
    read_weights,
    tokenizer_directory,
)
from llmapi.engine.config import EngineConfig
from llmapi.engine.conversion import Report, converted
from llmapi.engine.engine import Engine
from llmapi.engine.lora import AdapterFiles, read_adapter
from llmapi.engine.machine import GIB, cache_tokens, free_on, usable_cores
from llmapi.engine.messages import LoadProgress, ModelInfo
from llmapi.engine.networks import choose_network, quantisation
from llmapi.engine.pace import Pace
from llmapi.engine.placement import check_placement, placement
from llmapi.engine.rows import rows_needed
from llmapi.engine.runner import Runner, check_prompts
from llmapi.engine.source import (
    LoadError,
    Source,
    check_tokenizer,
    find_adapter,
    find_source,
    is_pickle,
    weight_files,
)
from llmapi.engine.tokenizer import load_tokenizer
from llmapi.engine.vocabulary import TURN_ENDS, Vocabulary

BLOCK_SIZE = 16

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty", "do_sample")


@dataclass(frozen=True, slots=True)
class Loaded:
    engine: Engine
    info: ModelInfo


def load(config: EngineConfig, report: Report = lambda progress: None) -> Loaded:
    """Load the model and make its engine; `report` hears what is being done. Raises LoadError."""
    began = time.monotonic()
    check_settings(config)
    _use_threads(config, report)
    devices, source = _devices(config), find_source(config)
    adapter = read_adapter(find_adapter(config.lora_model)) if config.lora_model else None
    _check_room(config, source, devices, adapter)
    directory = source.directory
    if source.gguf is not None:
        directory = converted(source.gguf, Path(config.cache_dir), report)
    if directory is None:
        raise LoadError(f"There is no model at '{config.base_model}'.")
    tokenizer_dir = tokenizer_directory(config, directory, adapter)

    report(LoadProgress(f"Loading {source.name}: the tokenizer"))
    tokenizer = _load_tokenizer(tokenizer_dir)
    rows = rows_needed(directory, source.name, adapter, tokenizer, tokenizer_dir, report)
    report(LoadProgress(f"Loading {source.name}: the weights"))
    model = _load_model(directory, devices, config)
    if rows != model.get_input_embeddings().weight.shape[0]:
        report(LoadProgress(f"The vocabulary has {rows:,} tokens: the embeddings are resized"))
        merging.resize(model, rows)
    if adapter is not None:
        report(LoadProgress(f"Loading {source.name}: the adapter in {adapter.directory}"))
        model = merging.attach(model, adapter)
    try:
        theirs = _own_logits(model)
        if adapter is not None:
            model = merging.merge(model, adapter)
        eos = _eos_token_ids(model, tokenizer)
        kind = type(model).__name__
        context = _context(config, model, report)
        parameters, dtype = model.num_parameters(), model.dtype
        network = choose_network(model, config, context, report)
        del model  # the fused decoders have taken over its weights
        runner = Runner(network)
        blocks, context = _room(config, runner, context, report)
        room, size = blocks * BLOCK_SIZE, blocks * BLOCK_SIZE * runner.shape.bytes_per_token
        told = f"{network.name}, key/value cache for {room:,} tokens, {size / GIB:.1f} GiB at most"
        report(LoadProgress(f"Loading {source.name}: {told}"))
        runner.allocate_cache(blocks, BLOCK_SIZE)
        runner.check(theirs)
    except UnsupportedModel as error:
        raise LoadError(f"'{source.name}' ({kind}) cannot be served: {error}.") from error
    engine = Engine(
        runner,
        Vocabulary(tokenizer),
        eos_token_ids=eos,
        context_length=context,
        max_batch=config.max_batch,
        step_tokens=config.step_tokens,
        pace=pace_of(config),
    )
    info = ModelInfo(
        name=source.name,
        tokenizer_path=str(tokenizer_dir),
        context_length=context,
        hidden_size=network.hidden_size,
        vocab_size=runner.vocab_size,
        eos_token_ids=eos,
        parameters=parameters,
        dtype=str(dtype).removeprefix("torch."),
        quantisation=quantisation(config, devices[0].type),
        decoder=network.kind,
        device=",".join(map(str, devices)),
        kv_cache_tokens=blocks * BLOCK_SIZE,
        kv_block_tokens=BLOCK_SIZE,
        max_batch=config.max_batch,
        load_s=time.monotonic() - began,
        generation_defaults=_generation_defaults(directory),
        lora=None if adapter is None else str(adapter.directory),
    )
    return Loaded(engine, info)


def _use_threads(config: EngineConfig, report: Report) -> None:
    cores = usable_cores()
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), cores))
    if config.threads and config.threads > cores:
        report(
            LoadProgress(
                f"{config.threads} threads were asked for (LLMAPI_THREADS), and there are {cores} "
                "cores for them: they will wait for each other"
            )
        )


def _devices(config: EngineConfig) -> list[torch.device]:
    """The GPUs that the layers go to, or the one device for all. Raises LoadError."""
    devices = [torch.device("cuda", number) for number in config.gpus] or [_device(config.device)]
    first = devices[0]
    if first.type == "cuda":
        _check_gpus(config, devices)
        if first.index is not None:
            torch.cuda.set_device(first)  # streams and graphs are made on the current one
    elif config.load_in_4bit:
        raise LoadError("--load_in_4bit needs a GPU; on a CPU take --load_in_8bit.")
    return devices


def _device(given: str) -> torch.device:
    if given == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(given)
    except RuntimeError as error:
        raise LoadError(f"'{given}' is no device: give auto, cpu, cuda or cuda:N.") from error


def _check_gpus(config: EngineConfig, devices: list[torch.device]) -> None:
    asked = ",".join(str(device.index or 0) for device in devices)
    if not torch.cuda.is_available():
        raise LoadError(f"GPU {asked} was asked for (--gpus), but torch sees no GPU here. {NO_GPU}")
    count = torch.cuda.device_count()
    if any((device.index or 0) >= count for device in devices):
        raise LoadError(
            f"GPU {asked} was asked for (--gpus), but torch sees {count} here: their numbers begin "
            f"with 0 and end with {count - 1}."
        )
    if (config.load_in_8bit or config.load_in_4bit) and not find_spec("bitsandbytes"):
        raise LoadError(
            "--load_in_8bit and --load_in_4bit need bitsandbytes on a GPU: install it with "
            "'pip install bitsandbytes'."
        )


def pace_of(config: EngineConfig) -> Pace | None:
    if config.prompt_stretch is None:
        return None
    return Pace(config.prompt_stretch, others=config.fair_stretch)


def _check_room(
    config: EngineConfig,
    source: Source,
    devices: list[torch.device],
    adapter: AdapterFiles | None,
) -> None:
    """Raises LoadError if the model will not fit."""
    weights = read_weights(source)
    free = sum(map(free_on, devices)) if devices[0].type == "cuda" else None
    check_memory(config, source.name, weights, adapter, free_on_gpus=free)


def _load_tokenizer(directory: Path) -> Any:
    check_tokenizer(directory)
    try:
        return load_tokenizer(directory)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(f"The tokenizer in '{directory}' cannot be read ({reason}).") from error


def _load_model(directory: Path, devices: list[torch.device], config: EngineConfig) -> Any:
    dtype, first = config.dtype, devices[0]
    if dtype not in ("auto", *DTYPES):
        raise LoadError(f"'{dtype}' is no dtype: give auto, {', '.join(DTYPES)}.")
    files = weight_files(directory)
    wanted = DTYPES.get(dtype, torch.float32 if first.type == "cpu" else "auto")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=wanted,
            quantization_config=_bitsandbytes(config) if first.type == "cuda" else None,
            use_safetensors=not is_pickle(files[0]),
            weights_only=True,  # a pickle is read as tensors and nothing else
            local_files_only=True,
            trust_remote_code=False,
            **placement(devices),
        )
    except pickle.UnpicklingError as error:
        raise merging.unsafe_pickle(files[0]) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(f"The model in '{directory}' cannot be loaded ({reason}).") from error
    check_placement(model, devices)
    quantised = config.load_in_8bit or config.load_in_4bit
    if dtype == "auto" and first.type == "cuda" and not quantised:
        half = _half(first)
        if model.dtype not in (half, torch.float16):  # float32, or bfloat16 on an old GPU
            model = model.to(half)
    return model.eval().requires_grad_(False)


def _half(device: torch.device) -> torch.dtype:
    """The half precision for which this GPU has arithmetic."""
    new_enough = torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if new_enough else torch.float16


def _bitsandbytes(config: EngineConfig) -> Any:
    if not (config.load_in_8bit or config.load_in_4bit):
        return None
    return BitsAndBytesConfig(
        load_in_8bit=config.load_in_8bit,
        load_in_4bit=config.load_in_4bit,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_type="nf4",
    )


@torch.inference_mode()
def _own_logits(model: Any) -> Tensor:
    """transformers' own logits for `Runner.check`, before anything of the model is replaced."""
    vocab_size = int(model.get_input_embeddings().weight.shape[0])
    prompt = torch.tensor([check_prompts(vocab_size)[1]], device=model.device)
    logits: Tensor = model(input_ids=prompt, use_cache=False).logits[0, -1]
    return logits.float().cpu()


def _eos_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every token that ends an answer: what the model's files say, and the chat template's turn
    end."""
    text_config = model.config.get_text_config()
    found: list[int] = []
    for value in (
        model.generation_config.eos_token_id,
        getattr(text_config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        found += value if isinstance(value, list) else [] if value is None else [value]
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    found += [added[end] for end in TURN_ENDS if end in template and end in added]
    return tuple(dict.fromkeys(found))


def _room(config: EngineConfig, runner: Runner, context: int, report: Report) -> tuple[int, int]:
    """Blocks of the cache, and the context length that they allow."""
    tokens = config.kv_cache_tokens
    if tokens is None:
        devices = runner.shape.devices or (runner.device,)
        tokens = cache_tokens(runner.shape, devices, most=config.max_batch * context)
    blocks = max(tokens // BLOCK_SIZE, 1)
    if blocks * BLOCK_SIZE < context:
        shorter = blocks * BLOCK_SIZE
        report(
            LoadProgress(
                f"The cache holds {shorter} tokens: the context is {shorter}, not {context}"
            )
        )
        context = shorter
    return blocks, context


def _context(config: EngineConfig, model: Any, report: Report) -> int:
    """The longest prompt plus answer: what is asked for, as far as the model was made for it."""
    limit = _context_limit(model.config.get_text_config())
    asked = config.context_length or limit
    if asked > limit:
        report(
            LoadProgress(
                f"The model is made for {limit:,} tokens: the context is that, not the {asked:,} "
                "that were asked for (LLMAPI_CONTEXT_LENGTH)"
            )
        )
    return min(asked, limit)


def _context_limit(text_config: Any) -> int:
    limit = int(getattr(text_config, "max_position_embeddings", 0) or 2048)
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Its factors change for the whole batch when one sequence gets long: an answer would then
        # depend on its neighbours. Within the original length they never change.
        return min(limit, int(rope.get("original_max_position_embeddings", limit)))
    return limit


def _generation_defaults(directory: Path) -> dict[str, float | int | bool]:
    path = directory / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"'{path}' is not valid JSON ({error}).") from error
    return {name: given[name] for name in DEFAULTS if given.get(name) is not None}
