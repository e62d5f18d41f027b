"""How one step's ragged batch attends over the paged cache."""

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llmapi.engine.attention import Scores
from llmapi.engine.blocks import NULL_BLOCK
from llmapi.engine.cache import KVCache
from llmapi.engine.step import Chunk

PADDING_ALLOWANCE = 2048
"""Positions that rows of different lengths may be padded by, before a group of its own is
cheaper."""


@dataclass(slots=True)
class Rows:
    """Sequences with one token each, attended together, padded to the longest."""

    first: int
    """Row of the flattened batch where the group begins."""
    lengths: Tensor
    """`[rows]`, on the device: positions that each may see, its own included."""
    block_rows: Tensor
    padded: int
    ragged: bool
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.lengths.shape[0]

    def hidden(self, window: int | None) -> Tensor | None:
        """`[rows, 1, padded]`, True where a row must not look; built once per step, not per
        layer."""
        if window not in self._masks:
            self._masks[window] = self._build(window)
        return self._masks[window]

    def _build(self, window: int | None) -> Tensor | None:
        if not self.ragged and (window is None or window >= self.padded):
            return None
        place = torch.arange(self.padded, device=self.lengths.device)
        lengths = self.lengths[:, None]
        hidden = place >= lengths
        if window is not None:
            hidden |= place < lengths - window
        return hidden[:, None, :]


@dataclass(slots=True)
class Span:
    """Several tokens of one sequence."""

    first: int
    chunk: Chunk
    block_rows: Tensor
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def hidden(self, window: int | None) -> Tensor:
        """`[count, end]`, True where a token must not look."""
        if window not in self._masks:
            device = self.block_rows.device
            place = torch.arange(self.chunk.end, device=device)
            own = torch.arange(self.chunk.start, self.chunk.end, device=device)[:, None]
            hidden = place > own
            if window is not None:
                hidden |= place <= own - window
            self._masks[window] = hidden
        return self._masks[window]


class AttentionPlan:
    """All index arithmetic of one step, done once and used by every layer.

    `order` is how the chunks lie in the flattened batch: single tokens first, longest sequence
    first, so that each group of rows is one slice; then the longer chunks.
    """

    def __init__(
        self, cache: KVCache, chunks: ListOf[Chunk], device: torch.device | None = None
    ) -> None:
        """`device`: that of the layers it is for; the cache's own by default."""
        self._cache = cache
        self._device = device
        singles = sorted((c for c in chunks if c.count == 1), key=lambda c: -c.end)
        longer = [c for c in chunks if c.count > 1]
        self.order = singles + longer
        self._slots = cache.slot_rows(torch.tensor(self._slot_numbers(), dtype=torch.long), device)
        self._rows = self._group(singles)
        self._spans = self._lay_out(longer, len(singles))

    def _slot_numbers(self) -> list[int]:
        size = self._cache.block_size
        return [
            chunk.sequence.blocks[position // size] * size + position % size
            for chunk in self.order
            for position in range(chunk.start, chunk.end)
        ]

    def _group(self, singles: list[Chunk]) -> list[Rows]:
        groups: list[Rows] = []
        first = 0
        while first < len(singles):
            longest = singles[first].end
            last, padding = first, 0
            while last < len(singles) and padding <= PADDING_ALLOWANCE:
                padding += longest - singles[last].end
                last += 1
            if padding > PADDING_ALLOWANCE:
                last -= 1
            groups.append(self._pad(singles[first:last], first))
            first = last
        return groups

    def _pad(self, chunks: list[Chunk], first: int) -> Rows:
        size = self._cache.block_size
        width = -(-chunks[0].end // size)
        table = []
        for chunk in chunks:
            used = chunk.sequence.blocks[: -(-chunk.end // size)]
            table += used + [NULL_BLOCK] * (width - len(used))
        rows = self._cache.block_rows(torch.tensor(table, dtype=torch.long), self._device)
        lengths = torch.tensor([chunk.end for chunk in chunks])
        padded = width * size
        ragged = any(chunk.end != padded for chunk in chunks)
        return Rows(first, lengths.to(rows.device), rows, padded, ragged)

    def _lay_out(self, chunks: list[Chunk], first: int) -> list[Span]:
        spans = []
        for chunk in chunks:
            used = chunk.sequence.blocks[: -(-chunk.end // self._cache.block_size)]
            rows = self._cache.block_rows(torch.tensor(used, dtype=torch.long), self._device)
            spans.append(Span(first, chunk, rows))
            first += chunk.count
        return spans

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        """Write the new keys and values, then let each sequence look at its own positions.

        q `[heads, tokens, dim]`, k and v `[kv_heads, tokens, dim]`; returns `[tokens, heads, dim]`.
        """
        self._cache.write(layer, self._slots, k, v)
        out = q.new_empty(q.shape[1], q.shape[0], v.shape[-1])
        for rows in self._rows:
            part = slice(rows.first, rows.first + rows.count)
            out[part] = self._attend_rows(layer, rows, q[:, part], scores)
        for span in self._spans:
            part = slice(span.first, span.first + span.chunk.count)
            out[part] = self._attend_span(layer, span, q[:, part], k[:, part], v[:, part], scores)
        return out

    def _attend_rows(self, layer: int, rows: Rows, q: Tensor, scores: Scores) -> Tensor:
        """q `[heads, rows, dim]` -> `[rows, heads, dim]`."""
        keys, values = self._cache.read(layer, rows.block_rows, rows.count)
        kv_heads, count = self._cache.shape.kv_heads, rows.count
        group = q.shape[0] // kv_heads
        q = (
            q.reshape(kv_heads, group, count, -1)
            .transpose(1, 2)
            .reshape(kv_heads * count, group, -1)
        )
        weights = _products(q, keys, scores)
        hidden = rows.hidden(scores.window)
        if hidden is not None:
            weights.view(kv_heads, count, group, -1).masked_fill_(hidden, -torch.inf)
        out = torch.bmm(_normalised(weights, values.dtype), values)
        return (
            out.view(kv_heads, count, group, -1)
            .transpose(0, 1)
            .reshape(count, kv_heads * group, -1)
        )

    def _attend_span(
        self, layer: int, span: Span, q: Tensor, k: Tensor, v: Tensor, scores: Scores
    ) -> Tensor:
        """q `[heads, count, dim]` -> `[count, heads, dim]`; k and v are this chunk's own."""
        begins = span.chunk.start == 0
        plain = scores.window is None or scores.window >= span.chunk.end
        if not begins:
            k, v = self._cache.read(layer, span.block_rows, 1)
            k, v = k[:, : span.chunk.end], v[:, : span.chunk.end]
        if scores.softcap is not None:
            return self._capped_span(span, q, k, v, scores)
        hidden = None if begins and plain else ~span.hidden(None if plain else scores.window)
        out = scaled_dot_product_attention(
            q[None],
            k[None],
            v[None],
            attn_mask=hidden,
            is_causal=hidden is None,
            scale=scores.scaling,
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)

    @staticmethod
    def _capped_span(span: Span, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        heads, count, _ = q.shape
        kv_heads = k.shape[0]
        weights = _products(q.reshape(kv_heads, -1, q.shape[-1]), k, scores)
        weights.view(heads, count, -1).masked_fill_(span.hidden(scores.window), -torch.inf)
        out = torch.bmm(_normalised(weights, v.dtype), v)
        return out.view(heads, count, -1).transpose(0, 1)


class SpreadPlan:
    """The same for layers that lie on several devices: a plan for each of these."""

    def __init__(self, cache: KVCache, chunks: ListOf[Chunk]) -> None:
        self._plans = {d: AttentionPlan(cache, chunks, d) for d in cache.devices}
        self.order = next(iter(self._plans.values())).order

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        return self._plans[q.device].attend(layer, q, k, v, scores)


def _products(q: Tensor, keys: Tensor, scores: Scores) -> Tensor:
    weights = torch.bmm(q * scores.scaling, keys.transpose(1, 2))
    if scores.softcap is not None:
        weights = torch.tanh(weights / scores.softcap) * scores.softcap
    return weights


def _normalised(weights: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.softmax(weights, -1, dtype=torch.float32).to(dtype)
