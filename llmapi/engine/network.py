"""What the runner asks of a model, however it is computed."""

from collections.abc import Mapping
from collections.abc import Sequence as ListOf
from typing import Any, Protocol

import torch
from torch import Tensor

from llmapi.engine.adapters import Delta, Sizes
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.step import Chunk


class Network(Protocol):
    """A causal language model over a paged cache. One thread at a time."""

    kind: str
    """How it is computed, as `EngineConfig.decoder` calls it: `native`, `fused`, `generic`."""
    name: str
    """The same in some words more, for whoever starts the server."""

    device: torch.device
    shape: CacheShape
    embedding: Tensor
    """`[vocab_size, hidden_size]`: row i is what token i becomes."""
    vocab_size: int
    hidden_size: int
    tolerance: float
    """How far its logits may be from transformers' own, as a part of the largest: rounding, and no
    more."""

    projections: Sizes
    """What adapters may change."""

    def pack(self, deltas: Mapping[str, Delta]) -> Any:
        """An adapter for some of the projections, as `Adapter.packed` for `forward`. Raises torch's
        out-of-memory error."""

    def use(self, cache: KVCache) -> None:
        """Keep keys and values in this cache from now on."""

    def forward(self, chunks: ListOf[Chunk]) -> list[Tensor]:
        """One pass over all chunks, each with its sequence's adapter: the last hidden states
        `[count, hidden_size]` of each, as `head` takes them."""

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[rows, vocab_size]` of last hidden states `[rows, hidden_size]`."""
