"""Where transformers hands its attention over to us: once per layer, under our name in its
registry."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

IMPLEMENTATION = "llmapi"
"""Our name in transformers' registry. No mask function is registered under it, so models build no
mask."""


class UnsupportedModel(Exception):
    """The model asks its attention for something that is not built here."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How one layer turns products into weights."""

    scaling: float
    window: int | None
    softcap: float | None


class Attends(Protocol):
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor: ...


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls once per layer; the runner's plan travels in `engine_plan`.

    query `[1, heads, tokens, dim]`, key and value `[1, kv_heads, tokens, dim]`; returns
    `[1, tokens, heads, dim]`. Raises UnsupportedModel.
    """
    plan: Attends | None = kwargs.get("engine_plan")
    if plan is None:
        raise UnsupportedModel("this model does not hand its keyword arguments on to its attention")
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise UnsupportedModel(f"this model's attention needs `{name}`")
    scores = Scores(
        query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap
    )
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return plan.attend(layer, query[0], key[0], value[0], scores)[None], None


AttentionInterface.register(IMPLEMENTATION, attention_forward)


class ShapeProbe:
    """Stands in for a plan while the model is asked once what its layers put into a cache."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, int, int, torch.dtype]] = {}
        self.devices: dict[int, torch.device] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        self.seen[layer] = (k.shape[0], k.shape[-1], v.shape[-1], k.dtype)
        self.devices[layer] = k.device
        return q.new_zeros(q.shape[1], q.shape[0], v.shape[-1])
