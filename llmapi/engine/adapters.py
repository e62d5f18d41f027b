"""LoRA adapters that are served beside the base model, mixed with it and each other in one batch.

LoRA (Hu et al., 2021, arXiv:2106.09685) adds `scale * B (A x)` to what a projection makes of x. The
base's weights stay as they are, quantised or not; each row of a step gets the addition of its own
sequence's adapter, or none.
"""

import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from peft.utils.save_and_load import load_peft_weights
from torch import Tensor

from llmapi.engine.lora import MERGE, WHOLE_MODULES, read_adapter
from llmapi.engine.messages import AdapterInfo
from llmapi.engine.source import ADAPTER_CONFIG, LoadError, find_adapter, read_json

Sizes = Mapping[str, tuple[int, int]]
"""(inputs, outputs) of projections, by their full names in the model, such as
`model.layers.0.mlp.up_proj`."""


class Delta(NamedTuple):
    """What is added to one projection: y += (x A^T) B^T."""

    a: Tensor
    """`[rank, inputs]`, float32"""
    b: Tensor
    """`[outputs, rank]`, float32, with the adapter's scale in it"""


@dataclass(frozen=True, eq=False)
class Adapter:
    """One loaded adapter. Sequences hold it, so one that is dropped lives as long as they do."""

    name: str
    generation: int
    """How many adapters were loaded before it: a name may come back with other weights."""
    packed: Any
    """What it adds, as its network wants it (`Network.pack`)."""

    @cached_property
    def salt(self) -> bytes:
        """What sets its keys and values apart from the base's and from other adapters'."""
        words = f"{self.generation} {self.name}"
        return blake2b(words.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def info_of(name: str, path: str, deltas: Mapping[str, Delta]) -> AdapterInfo:
    tensors = [tensor for delta in deltas.values() for tensor in delta]
    return AdapterInfo(
        name=name,
        path=path,
        rank=max(delta.a.shape[0] for delta in deltas.values()),
        targets=tuple(sorted({name.rpartition(".")[2] for name in deltas})),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    )


def read_deltas(path: Path, sizes: Sizes) -> dict[str, Delta]:
    """The adapter in a directory, as peft saves it, for a model with these projections.

    Raises LoadError.
    """
    if not path.is_dir():  # what is read below would look for it on the hub
        raise LoadError(f"There is no directory '{path}'.")
    if obstacle := read_adapter(find_adapter(str(path))).why_not_beside:
        raise LoadError(obstacle)
    config = _read_config(path)
    try:
        weights = load_peft_weights(str(path), device="cpu")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(f"The adapter's weights in '{path}' cannot be read ({reason}).") from error
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        name, _, half = key.removeprefix("base_model.model.").rpartition(".lora_")
        if half not in ("A.weight", "B.weight"):
            whole = "embed" in key or "lm_head" in key
            raise LoadError(
                f"The adapter in '{path}' cannot be served beside the base model: "
                + (WHOLE_MODULES if whole else f"it holds '{key}', which is no LoRA matrix.")
            )
        halves.setdefault(name, {})[half[0]] = tensor
    return {name: _delta(name, both, config, path, sizes) for name, both in halves.items()}


def _read_config(path: Path) -> LoraConfig:
    known = {field.name for field in fields(LoraConfig)}
    # What peft no longer knows or does not know yet, and what is off besides: it would warn of it,
    # as with all of Chinese-Alpaca's adapters (`enable_lora`, `merge_weights`).
    given = read_json(path / ADAPTER_CONFIG)
    kept = {name: value for name, value in given.items() if value or name in known}
    try:
        config: LoraConfig = LoraConfig.from_peft_type(**kept)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(f"'{path / ADAPTER_CONFIG}' cannot be read ({reason}).") from error
    return config


def _delta(
    name: str, both: Mapping[str, Tensor], config: LoraConfig, path: Path, sizes: Sizes
) -> Delta:
    other = f"The adapter in '{path}' was made for another base model"
    if name == "lm_head":
        raise LoadError(f"The adapter in '{path}' changes the output layer. {MERGE}")
    if name not in sizes:
        raise LoadError(f"{other}: this one has no projection '{name}'.")
    if both.keys() != {"A", "B"}:
        raise LoadError(f"The adapter in '{path}' lacks a half of '{name}'.")
    a, b = both["A"].float().contiguous(), both["B"].float().contiguous()
    inputs, outputs = sizes[name]
    rank = a.shape[0] if a.ndim else 0
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        raise LoadError(
            f"{other}: '{name}' has {inputs} inputs and {outputs} outputs here, which do not fit "
            f"its A {list(a.shape)} and B {list(b.shape)}."
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise LoadError(f"The adapter in '{path}' holds broken numbers (in '{name}').")
    rank_patterns, alpha_patterns = config.rank_pattern or {}, config.alpha_pattern or {}
    said = rank_patterns.get(get_pattern_key([*rank_patterns], name), config.r)
    alpha = alpha_patterns.get(get_pattern_key([*alpha_patterns], name), config.lora_alpha)
    if said != rank:
        raise LoadError(
            f"The adapter in '{path}' says that '{name}' has rank {said}, and it has {rank}."
        )
    return Delta(a, b * (alpha / (math.sqrt(rank) if config.use_rslora else rank)))


# ---- for networks --------------------------------------------------------------------------------

JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The LLaMA family's projections, as the fused decoders compute them: one product for each line."""


def sizes_of_layers(layers: Iterable[Any]) -> dict[str, tuple[int, int]]:
    """The projections of a LLaMA-family model's layers."""
    return {
        f"model.layers.{number}.{name}": (module.in_features, module.out_features)
        for number, layer in enumerate(layers)
        for names in JOINED.values()
        for name in names
        for module in [layer.get_submodule(name)]
    }


def joined(
    deltas: Mapping[str, Delta], sizes: Sizes, layer: int, product: str
) -> tuple[Delta, ListOf[Tensor]] | None:
    """What an adapter adds to one of a layer's joined products, and each projection's own B with
    the ranks of all: `[outputs, rank]`, for outputs that lie otherwise than below each other.

    Ranks add up. None: it adds nothing there.
    """
    names = [f"model.layers.{layer}.{name}" for name in JOINED[product]]
    if not any(name in deltas for name in names):
        return None
    a = torch.cat([deltas[name].a for name in names if name in deltas])
    own = [deltas[n].b if n in deltas else torch.zeros(sizes[n][1], 0) for n in names]
    b = torch.block_diag(*own)
    return Delta(a, b), b.split([sizes[name][1] for name in names])


class Rows(NamedTuple):
    """Rows of a step that one adapter serves: from `first` to before `end`."""

    first: int
    end: int
    adapter: Adapter


def rows_of(parts: Iterable[tuple[int, Adapter | None]]) -> list[Rows]:
    """(rows, adapter) of each chunk, in the order in which their rows lie: neighbours of one
    adapter are joined, those without one left out."""
    found: list[Rows] = []
    first = 0
    for count, adapter in parts:
        end = first + count
        if adapter is not None:
            if found and found[-1].end == first and found[-1].adapter is adapter:
                found[-1] = found[-1]._replace(end=end)
            else:
                found.append(Rows(first, end, adapter))
        first = end
    return found


def added(delta: Delta, x: Tensor) -> Tensor:
    """What is added for x `[rows, inputs]`: `[rows, outputs]`, in the delta's precision."""
    return (x.to(delta.a.dtype) @ delta.a.T) @ delta.b.T
