"""Everything that can be said against a configuration before anything slow begins.

Without torch and without the network, so that the web process can say it before it starts an
engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmapi.engine.config import EngineConfig
from llmapi.engine.headers import FLOATS, TensorHeader, numbers_in_gguf, read_headers
from llmapi.engine.lora import AdapterFiles, Shapes, check_fits, read_adapter
from llmapi.engine.machine import GIB, available_bytes, installed_bytes, why_no_gpu
from llmapi.engine.pickles import read_pickled
from llmapi.engine.source import (
    LoadError,
    Source,
    check_tokenizer,
    find_adapter,
    find_source,
    find_tokenizer,
    has_tokenizer,
    is_hub_id,
    is_pickle,
    model_name,
    read_json,
    weight_files,
)

SAME_NAMES = ("llama", "mistral", "qwen2", "qwen3")
"""Families (`model_type`) whose files name their tensors as transformers names the modules."""

NO_GPU = (
    "Leave --gpus out or give --only_cpu to serve on the CPU; with a GPU, check its driver, and "
    "that torch is a CUDA build."
)

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
EIGHT_BITS, FOUR_BITS = 1.1, 0.6
"""bitsandbytes' bytes for a number, with scales, and embeddings in float."""
MARGIN, MARGIN_SHARE = 256 * 2**20, 0.05
"""Memory beside the weights, at least, and as a part of them: torch itself, activations, a small
cache."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What is known of a model's weights without reading them."""

    headers: Mapping[str, TensorHeader] | None
    """None: they are in a format of which this cannot be told."""
    file_bytes: int
    numbers: int | None = None
    """How many of them there are, if the headers do not tell; None: that is not known either."""

    @property
    def shapes(self) -> Shapes:
        """By the tensors' names; empty: not known."""
        return {name: header.shape for name, header in (self.headers or {}).items()}

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
            if not header.again
        )


def check_local(config: EngineConfig) -> None:
    """What can be told in a moment and without the hub. Raises LoadError."""
    check_settings(config)
    no_gpu = why_no_gpu()
    if no_gpu:
        check_without_gpu(config, no_gpu)
    base = None if is_hub_id(config.base_model) else find_source(config)
    if config.tokenizer_path and not is_hub_id(config.tokenizer_path):
        find_tokenizer(config.tokenizer_path)
    adapter = None
    if config.lora_model and not is_hub_id(config.lora_model):
        adapter = read_adapter(find_adapter(config.lora_model))
    beside = {name: check_beside(config, name, path) for name, path in config.adapters}
    if base is None:
        return
    weights = read_weights(base)
    if base.directory:
        # Of what is on the hub nothing is known yet.
        if not any(map(is_hub_id, filter(None, (config.tokenizer_path, config.lora_model)))):
            check_tokenizer(tokenizer_directory(config, base.directory, adapter))
        check_shapes(base, weights, [*filter(None, (adapter,)), *beside.values()])
    if config.device == "cpu" or no_gpu:
        check_memory(config, base.name, weights, adapter)


def check_without_gpu(config: EngineConfig, why: str) -> None:
    """Raises LoadError if a GPU is needed. `why` there is none."""
    if config.load_in_4bit:
        raise LoadError(
            f"--load_in_4bit needs a GPU, and torch sees none here ({why}); on a CPU take "
            "--load_in_8bit."
        )
    if config.gpus:
        asked = ",".join(map(str, config.gpus))
        raise LoadError(
            f"GPU {asked} was asked for (--gpus), but torch sees no GPU here ({why}). {NO_GPU}"
        )


def check_beside(config: EngineConfig, name: str, path: str) -> AdapterFiles:
    """One of the adapters that are to be served beside the base. Raises LoadError."""
    if name == model_name(config):
        raise LoadError(
            f"The adapter '{name}' of --lora_modules (LLMAPI_LORA_MODELS) has the base model's "
            "name: give it another one, or the base by LLMAPI_MODEL_NAME."
        )
    try:
        adapter = read_adapter(find_adapter(path))
        if adapter.why_not_beside:
            raise LoadError(adapter.why_not_beside)
    except LoadError as error:
        raise LoadError(
            f"The adapter '{name}' of --lora_modules (LLMAPI_LORA_MODELS) cannot be served: {error}"
        ) from error
    return adapter


def check_shapes(base: Source, weights: Weights, adapters: list[AdapterFiles]) -> None:
    """Raises LoadError if one of them was not made for this base, as far as files tell."""
    assert base.directory is not None
    model_type = read_json(base.directory / "config.json").get("model_type")
    if not weights.shapes or model_type not in SAME_NAMES:
        return
    own = dict(weights.shapes)
    if embedding := own.get("model.embed_tokens.weight"):
        own.setdefault("lm_head.weight", embedding)  # tied ones are saved once
    for adapter in adapters:
        if adapter.headers:
            theirs = {name: header.shape for name, header in adapter.headers.items()}
            check_fits(adapter, theirs, own, base.name)


def tokenizer_directory(
    config: EngineConfig, model_directory: Path, adapter: AdapterFiles | None
) -> Path:
    """The one that is named, else the adapter's, else the base's. Raises LoadError."""
    if config.tokenizer_path:
        return find_tokenizer(config.tokenizer_path)
    if adapter is not None and has_tokenizer(adapter.directory):
        return adapter.directory
    if not has_tokenizer(model_directory):
        raise LoadError(
            f"'{model_directory}' has no tokenizer (tokenizer.json or tokenizer.model): "
            "name the directory that has it with --tokenizer_path."
        )
    return model_directory


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
    size = sum(file.stat().st_size for file in files)
    return Weights(read_pickled(files) if is_pickle(files[0]) else read_headers(files), size)


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
    on_cpu = free_on_gpus is None
    if on_cpu:
        item_bytes = item_bytes or ITEM_BYTES["float32"]
    elif config.load_in_8bit or config.load_in_4bit:
        item_bytes = EIGHT_BITS if config.load_in_8bit else FOUR_BITS
    needed = needed_bytes(weights, adapter, item_bytes)
    free = available_bytes() if free_on_gpus is None else free_on_gpus
    if needed > free:
        ways = ways_on_cpu if on_cpu else ways_on_gpu
        remedies = ways(weights, adapter, item_bytes, needed, free)
        listed = ", ".join(remedies[:-1]) + " or " * (len(remedies) > 1) + remedies[-1]
        where = "memory" if on_cpu else "GPU memory"
        raise LoadError(
            f"'{name}' needs about {needed / GIB:.1f} GiB of {where}, and {free / GIB:.1f} GiB are "
            f"free. {listed[:1].upper()}{listed[1:]}."
        )


def needed_bytes(weights: Weights, adapter: AdapterFiles | None, item_bytes: float | None) -> int:
    """Memory for the weights, the adapter until it is merged, and what comes beside them."""
    needed = weights.loaded_bytes(item_bytes)
    if adapter is not None:
        needed += _adapter_bytes(adapter)
    return needed + max(MARGIN, int(needed * MARGIN_SHARE))


def _adapter_bytes(adapter: AdapterFiles) -> int:
    """peft computes in float32."""
    return Weights(adapter.headers, adapter.file.stat().st_size).loaded_bytes(4)


def ways_on_cpu(
    weights: Weights,
    adapter: AdapterFiles | None,
    item_bytes: float | None,
    needed: int,
    free: int,
) -> list[str]:
    """What to do when a model does not fit: of what the settings can do, that which is enough."""
    ways = []
    half = ITEM_BYTES["bfloat16"]
    if item_bytes != half and needed_bytes(weights, adapter, half) <= free:
        ways.append("set LLMAPI_DTYPE=bfloat16 for half of it")
    if needed <= installed_bytes():
        ways.append("end other programs")
    return [*ways, "take a smaller model"]


def ways_on_gpu(
    weights: Weights,
    adapter: AdapterFiles | None,
    item_bytes: float | None,
    needed: int,
    free: int,
) -> list[str]:
    """The same for GPUs. More of them always help, if there are any."""
    ways = [
        f"give {flag}"
        for flag, smaller in (("--load_in_8bit", EIGHT_BITS), ("--load_in_4bit", FOUR_BITS))
        if (item_bytes is None or item_bytes > smaller)
        and needed_bytes(weights, adapter, smaller) <= free
    ]
    return [*ways, "name more GPUs (--gpus 0,1)", "take a smaller model"]
