"""Attention of a whole step in one call and without masks, by torch's `varlen_attn`: a GPU's way.

It reads keys and values of all sequences packed one after the other, so they are gathered from
their blocks first. (It can also read blocks in place, but not with the kernels that torch brings
itself: see docs/decisions/0007.)
"""

import inspect
import logging
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from llmapi.engine.attention import Scores
from llmapi.engine.blocks import NULL_BLOCK
from llmapi.engine.cache import KVCache
from llmapi.engine.step import Chunk

log = logging.getLogger(__name__)

Varlen = Callable[..., Tensor]
"""Called as `varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale,
window_size)` of torch: query `[tokens, heads, dim]`, key and value `[positions, kv_heads, dim]`,
the cumulated lengths `[sequences + 1]` in int32."""


class PackedPlan:
    """Where a step's tokens are written and what they read (see `Attends`).

    Only arithmetic on the device, and no shape that depends on what is in a tensor: it may be part
    of a captured graph.
    """

    def __init__(
        self,
        cache: KVCache,
        varlen: Varlen,
        *,
        tables: Tensor,
        lengths: Tensor,
        owners: Tensor,
        positions: Tensor,
        starts: Tensor,
        most_tokens: int,
        most_positions: int,
        room: int,
    ) -> None:
        """For each sequence its blocks `tables[s]` and how many positions are read, `lengths[s]`,
        the new ones included; for each token its sequence `owners[t]` and its place there,
        `positions[t]`. All int64 on the cache's device. Tokens of one sequence stand together, from
        `starts[s]` to `starts[s + 1]` (int32).

        `most_tokens`, `most_positions`: of one sequence, at most. `room`: so many positions are
        gathered, at least the sum of `lengths`; what is behind that sum is not looked at.
        """
        self._cache, self._varlen = cache, varlen
        self._starts, self._most = starts, (most_tokens, most_positions)
        ends = lengths.cumsum(0)
        place = torch.arange(room, device=ends.device)
        sequence = torch.searchsorted(ends, place, right=True).clamp_(max=len(lengths) - 1)
        place -= (ends - lengths)[sequence]
        place.clamp_(max=tables.shape[1] * cache.block_size - 1)
        self._ends = torch.cat([ends.new_zeros(1), ends]).int()
        self._written = cache.slot_rows(self._slots(tables, owners, positions))
        self._read = cache.slot_rows(self._slots(tables, sequence, place))

    @classmethod
    def of(cls, cache: KVCache, varlen: Varlen, chunks: ListOf[Chunk]) -> "PackedPlan":
        """For any chunks, in their order."""
        size, counts = cache.block_size, [chunk.count for chunk in chunks]
        ends, used = [chunk.end for chunk in chunks], [-(-c.end // size) for c in chunks]
        owners = [s for s, count in enumerate(counts) for _ in range(count)]
        positions = [p for chunk in chunks for p in range(chunk.start, chunk.end)]
        starts = [0, *accumulate(counts)]
        table = []
        for chunk, blocks in zip(chunks, used, strict=True):
            table += chunk.sequence.blocks[:blocks] + [NULL_BLOCK] * (max(used) - blocks)
        # One copy to the device for all of them.
        parts = (ends, owners, positions, starts, table)
        whole = torch.tensor([number for part in parts for number in part]).to(cache.device)
        lengths, owner, position, start, tables = whole.split([len(part) for part in parts])
        return cls(
            cache,
            varlen,
            tables=tables.view(len(chunks), -1),
            lengths=lengths,
            owners=owner,
            positions=position,
            starts=start.int(),
            most_tokens=max(counts),
            most_positions=max(ends),
            room=sum(ends),
        )

    def _slots(self, tables: Tensor, sequences: Tensor, positions: Tensor) -> Tensor:
        size = self._cache.block_size
        return tables[sequences, positions // size] * size + positions % size

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        """q `[heads, tokens, dim]`, k and v `[kv_heads, tokens, dim]`; returns `[tokens, heads,
        dim]`."""
        self._cache.write(layer, self._written, k, v)
        keys, values = self._cache.read_slots(layer, self._read)
        if scores.window is not None:
            window = (scores.window - 1, 0)  # to the left of a token's own
        elif self._most[0] == 1:
            window = (-1, -1)  # the last position may see all; this has kernels of its own
        else:
            window = (-1, 0)
        packed = (x.transpose(0, 1) for x in (q, keys, values))
        return self._varlen(
            *packed,
            self._starts,
            self._ends,
            *self._most,
            scale=scores.scaling,
            window_size=window,
        )


def find_varlen(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, dim: int
) -> Varlen | None:
    """torch's `varlen_attn`, if it takes such heads on this device: it is tried out. None: it has
    no kernel for them (float32, old GPUs, odd dimensions, CPUs), or torch is too old.

    Whether its numbers are right is not asked here: see `Runner.check`.
    """
    if device.type != "cuda":
        return None
    try:
        from torch.nn.attention import varlen
    except ImportError:
        return None
    varlen_attn: Any = varlen.varlen_attn
    known = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= known.keys():
        return None
    found = partial(varlen_attn, **({"enable_gqa": True} if "enable_gqa" in known else {}))
    ends = torch.tensor([0, 2], dtype=torch.int32, device=device)
    q, kv = (torch.ones(2, n, dim, dtype=dtype, device=device) for n in (heads, kv_heads))
    try:
        with torch.inference_mode():
            float(found(q, kv, kv, ends, ends, 2, 2, scale=1.0, window_size=(1, 0)).sum())
    except Exception as error:  # each kernel has its own way to say no
        log.info("varlen_attn does not serve this model: %s", error)
        return None
    return found
