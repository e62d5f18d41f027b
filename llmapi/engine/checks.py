"""Everything that can be said against a configuration before anything slow begins.

Without torch and without the network, so that the web process can say it before it starts an
engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmapi.engine.config import EngineConfig
from llmapi.engine.headers import FLOATS, TensorHeader, numbers_in_gguf, read_headers
from llmapi.engine.lora import AdapterFiles, check_fits, read_adapter
from llmapi.engine.machine import GIB, available_bytes
from llmapi.engine.source import (
    LoadError,
    Source,
    find_adapter,
    find_source,
    find_tokenizer,
    is_hub_id,
    is_pickle,
    read_json,
    weight_files,
)

SAME_NAMES = ("llama", "mistral", "qwen2", "qwen3")
"""Families (`model_type`) whose files name their tensors as transformers names the modules."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MARGIN, MARGIN_SHARE = 256 * 2**20, 0.05
"""Memory beside the weights, at least, and as a part of them: torch itself, activations, a small
cache."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of a model's weights without reading them."""

    headers: Mapping[str, TensorHeader] | None
    """None: they are not in safetensors."""
    file_bytes: int
    numbers: int | None = None
    """How many of them there are, if the headers do not tell; None: that is not known either."""

    def loaded_bytes(self, item_bytes: float | None) -> int:
        """Memory that they take with `item_bytes` for each number; None: those that it has in its
        file."""
        if self.headers is None:
            half = ITEM_BYTES["float16"]  # as nearly all pickles are
            numbers = self.file_bytes // half if self.numbers is None else self.numbers
            return int(numbers * (item_bytes or half))
        return sum(
            int(header.count * item_bytes)
            if item_bytes and header.dtype in FLOATS
            else header.bytes
            for header in self.headers.values()
        )


def check_local(config: EngineConfig) -> None:
    """What can be told in a moment and without the hub. Raises LoadError."""
    check_settings(config)
    base = None if is_hub_id(config.base_model) else find_source(config)
    if config.tokenizer_path and not is_hub_id(config.tokenizer_path):
        find_tokenizer(config.tokenizer_path)
    adapter = None
    if config.lora_model and not is_hub_id(config.lora_model):
        adapter = read_adapter(find_adapter(config.lora_model))
    if base is None:
        return
    weights = read_weights(base)
    if adapter and adapter.headers and weights.headers and base.directory:
        model_type = read_json(base.directory / "config.json").get("model_type")
        if model_type in SAME_NAMES:
            theirs = {name: header.shape for name, header in adapter.headers.items()}
            own = {name: header.shape for name, header in weights.headers.items()}
            check_fits(adapter, theirs, own, base.name)
    if config.device == "cpu":
        check_memory(config, base.name, weights, adapter)


def check_settings(config: EngineConfig) -> None:
    """Raises LoadError if settings contradict each other."""
    if config.step_tokens < config.max_batch:
        raise LoadError(
            f"step_tokens ({config.step_tokens}) must be at least max_batch ({config.max_batch})."
        )
    if config.load_in_8bit and config.load_in_4bit:
        raise LoadError("--load_in_8bit and --load_in_4bit exclude each other: give one.")
    if config.device == "cpu" and config.load_in_4bit:
        raise LoadError("--load_in_4bit needs a GPU; on a CPU take --load_in_8bit.")
    if config.device == "cpu" and config.gpus:
        raise LoadError("--gpus and --only_cpu exclude each other: give one.")


def read_weights(source: Source) -> Weights:
    """Raises LoadError: none there, parts missing, unreadable, cut short."""
    if source.gguf is not None:
        return Weights(None, source.gguf.stat().st_size, numbers_in_gguf(source.gguf))
    files = weight_files(source.directory) if source.directory else []
    pickled = is_pickle(files[0])
    size = sum(file.stat().st_size for file in files)
    return Weights(None if pickled else read_headers(files), size)


def check_memory(
    config: EngineConfig,
    name: str,
    weights: Weights,
    adapter: AdapterFiles | None,
    *,
    free_on_gpus: int | None = None,
) -> None:
    """Raises LoadError if the model will not fit. `free_on_gpus`: bytes; None: it is for the CPU.

    On a CPU 8-bit weights are made of float ones, so it is those that must fit.
    """
    item_bytes: float | None = ITEM_BYTES.get(config.dtype)
    if free_on_gpus is None:
        item_bytes = item_bytes or ITEM_BYTES["float32"]
    elif config.load_in_8bit or config.load_in_4bit:
        item_bytes = 1.1 if config.load_in_8bit else 0.6  # with scales, and embeddings in float
    needed = weights.loaded_bytes(item_bytes)
    if adapter is not None:
        needed += _adapter_bytes(adapter)
    needed += max(MARGIN, int(needed * MARGIN_SHARE))
    free = available_bytes() if free_on_gpus is None else free_on_gpus
    if needed > free:
        where = "memory" if free_on_gpus is None else "GPU memory"
        raise LoadError(
            f"'{name}' needs about {needed / GIB:.1f} GiB of {where}, and {free / GIB:.1f} GiB are "
            f"free. {_remedy(config, on_cpu=free_on_gpus is None)}"
        )


def _adapter_bytes(adapter: AdapterFiles) -> int:
    """Memory that it takes until it is merged: peft computes in float32."""
    return Weights(adapter.headers, adapter.file.stat().st_size).loaded_bytes(4)


def _remedy(config: EngineConfig, *, on_cpu: bool) -> str:
    """What to do when a model does not fit, as far as it is not done yet."""
    if on_cpu:
        whole = ITEM_BYTES.get(config.dtype, 4) == ITEM_BYTES["float32"]
        take = "Set LLMAPI_DTYPE=bfloat16 for half of it, take" if whole else "Take"
        return f"{take} a smaller model, or end other programs."
    ways = []
    if not (config.load_in_8bit or config.load_in_4bit):
        ways.append("--load_in_8bit")
    if not config.load_in_4bit:
        ways.append("--load_in_4bit")
    return f"Try {', '.join([*ways, 'more GPUs (--gpus 0,1)'])}, or a smaller model."
