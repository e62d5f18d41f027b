"""Decode steps in buckets: a GPU replays a captured graph of each, instead of hearing hundreds of
kernels named one by one.

A graph computes on fixed memory with fixed shapes. So a step is padded to a number of rows and a
number of positions read, and its numbers are put where the graph looks for them.
"""

import logging
from collections.abc import Callable
from collections.abc import Sequence as ListOf

import torch
from torch import Tensor

from llmapi.engine.cache import KVCache
from llmapi.engine.packed import PackedPlan, Varlen
from llmapi.engine.step import Chunk

log = logging.getLogger(__name__)

Body = Callable[[PackedPlan, Tensor, Tensor], Tensor]
"""The layers: a plan, tokens and positions `[rows]` -> last hidden states `[rows, hidden_size]`."""

LEAST_ROOM = 512
TOKEN, LENGTH, BLOCKS = 0, 1, 2
"""Columns of a row of inputs: its token, how many positions it sees, and from here on its
blocks."""


def bucket_of_rows(rows: int, most: int) -> int:
    """1, 2, 4, 8, 16, 24, 32 and so on, `most` at most."""
    return min(1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8, most)


def bucket_of_room(positions: int) -> int:
    """A power of two: for half of what is copied at worst, few graphs."""
    return max(1 << (positions - 1).bit_length(), LEAST_ROOM)


class DecodeSteps:
    """Steps of one token for each sequence. Owns the inputs, the outputs and the graphs.

    On a CPU the same padded step is computed without graphs.
    """

    def __init__(
        self,
        body: Body,
        cache: KVCache,
        varlen: Varlen,
        *,
        most_rows: int,
        longest: int,
        like: Tensor,
    ) -> None:
        """`longest`: positions of a sequence at most. `like`: hidden states `[..., hidden_size]`
        of what is computed, on its device."""
        self._body, self._cache, self._varlen = body, cache, varlen
        self._most_rows, self._longest = most_rows, longest
        self._most_room = bucket_of_room(cache.usable * cache.block_size)
        size = (most_rows, BLOCKS + -(-longest // cache.block_size))
        self._captures = like.device.type == "cuda"
        self._staged = torch.zeros(size, dtype=torch.long, pin_memory=self._captures)
        self._inputs = torch.zeros(size, dtype=torch.long, device=like.device)
        self._hidden = like.new_zeros(most_rows, like.shape[-1])
        self._copied = torch.cuda.Event() if self._captures else None
        self._pool = torch.cuda.graph_pool_handle() if self._captures else None
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def can_run(self, chunks: ListOf[Chunk]) -> bool:
        """Whether these are a decode step, and of a size worth keeping a graph for. (Beams that
        share their blocks may together read more than there is.)"""
        if len(chunks) > self._most_rows or any(chunk.count != 1 for chunk in chunks):
            return False
        return sum(chunk.end for chunk in chunks) + self._most_rows <= self._most_room

    def run(self, chunks: ListOf[Chunk]) -> Tensor:
        """Last hidden states `[chunks, hidden_size]`, until the next run. Ask `can_run` first."""
        rows = bucket_of_rows(len(chunks), self._most_rows)
        room = bucket_of_room(sum(chunk.end for chunk in chunks) + rows - len(chunks))
        self._fill(chunks, rows)
        if self._captures and (rows, room) not in self._graphs:
            self._compute(rows, room)  # whatever is set up at a first use must not be captured
            self._capture(rows, room)
        if graph := self._graphs.get((rows, room)):
            graph.replay()
        else:
            self._compute(rows, room)
        return self._hidden[: len(chunks)]

    def _fill(self, chunks: ListOf[Chunk], rows: int) -> None:
        """One copy to the device. Rows beyond the chunks see one position of the scratch block."""
        if self._copied:
            self._copied.synchronize()  # what was staged before is on the device
        staged = self._staged.numpy()
        for row, chunk in enumerate(chunks):
            blocks = chunk.sequence.blocks[: -(-chunk.end // self._cache.block_size)]
            staged[row, TOKEN] = chunk.sequence.tokens[chunk.start]
            staged[row, LENGTH] = chunk.end
            staged[row, BLOCKS : BLOCKS + len(blocks)] = blocks
        staged[len(chunks) : rows, : BLOCKS + 1] = (0, 1, self._cache.scratch)
        self._inputs[:rows].copy_(self._staged[:rows], non_blocking=True)
        if self._copied:
            self._copied.record()

    def _compute(self, rows: int, room: int) -> None:
        """From the inputs to the hidden states: what a graph holds."""
        inputs = self._inputs[:rows]
        lengths = inputs[:, LENGTH]
        positions = lengths - 1
        each = torch.arange(rows + 1, device=inputs.device)
        plan = PackedPlan(
            self._cache,
            self._varlen,
            tables=inputs[:, BLOCKS:],
            lengths=lengths,
            owners=each[:-1],
            positions=positions,
            starts=each.int(),
            most_tokens=1,
            most_positions=min(room, self._longest),
            room=room,
        )
        self._hidden[:rows] = self._body(plan, inputs[:, TOKEN], positions)

    def _capture(self, rows: int, room: int) -> None:
        """Keep a graph of `_compute`; it is recorded here, not run. Graphs share their memory, for
        one runs after the other and what it leaves is in `_hidden`."""
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                self._compute(rows, room)
        except RuntimeError:
            log.exception("CUDA graphs cannot be captured here; decoding goes on without them")
            self._captures = False
        else:
            self._graphs[rows, room] = graph
