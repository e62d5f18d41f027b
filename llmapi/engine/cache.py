"""The key/value cache: one pool of blocks per layer, shared by all sequences."""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from llmapi.engine.blocks import NULL_BLOCK


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one position of one layer holds; the same for all layers."""

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    devices: tuple[torch.device, ...] = ()
    """Where each layer is, if not all are in one place."""

    @property
    def bytes_per_token(self) -> int:
        """Of all layers together."""
        width = self.kv_heads * (self.key_dim + self.value_dim)
        return self.layers * width * self.dtype.itemsize


class KVCache:
    """Keys and values by layer, as rows `[kv_heads * blocks, block_size * dim]`, heads outermost.

    With the heads outermost, a plain row gather of several sequences' blocks is already the
    `[kv_heads * sequences, length, dim]` that a batched matmul wants: no transpose, no copy of each
    head for its group of queries. On a CPU the system zeroes the memory when it is first touched,
    so a big pool costs nothing until it is used.
    """

    def __init__(
        self, shape: CacheShape, *, blocks: int, block_size: int, device: torch.device
    ) -> None:
        """`blocks`: those that sequences may hold, numbers 1 to `blocks`. `device`: of all layers,
        if `shape` does not tell."""
        self.block_size = block_size
        self.usable = blocks
        self.scratch = blocks + 1
        """A block that belongs to nobody: padding of a batch writes here, and nobody else reads
        it."""
        self.blocks = blocks + 2  # the null block, the scratch block
        self.shape = shape
        self.device = device
        rows = shape.kv_heads * self.blocks

        def pools(dim: int) -> list[Tensor]:
            size = (rows, block_size * dim)
            places = shape.devices or (device,) * shape.layers
            return [zeros(size, shape.dtype, place) for place in places]

        self._keys = pools(shape.key_dim)
        self._values = pools(shape.value_dim)
        self.devices = tuple(dict.fromkeys(pool.device for pool in self._keys))
        """Those on which there is a layer, each once."""

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, as the rows that this class describes."""
        yield from zip(self._keys, self._values, strict=True)

    def block_rows(self, blocks: Tensor, device: torch.device | None = None) -> Tensor:
        """Rows of the pool for block numbers `[n]`, head after head: `[kv_heads * n]`; for layers
        on `device`, the cache's own by default."""
        return self._per_head(blocks, self.blocks, device)

    def slot_rows(self, slots: Tensor, device: torch.device | None = None) -> Tensor:
        """The same for single positions: slot = block * block_size + place in the block."""
        return self._per_head(slots, self.blocks * self.block_size, device)

    def _per_head(self, places: Tensor, stride: int, device: torch.device | None) -> Tensor:
        heads = torch.arange(self.shape.kv_heads, device=places.device)[:, None] * stride
        return (heads + places[None, :]).flatten().to(device or self.device)

    def write(self, layer: int, slot_rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values `[kv_heads, tokens, dim]` at `slot_rows` `[kv_heads * tokens]`."""
        for pool, new in ((self._keys[layer], key), (self._values[layer], value)):
            dim = new.shape[-1]
            pool.view(-1, dim).index_copy_(0, slot_rows, new.reshape(-1, dim))

    def read(self, layer: int, block_rows: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `sequences` block lists of equal length: `[kv_heads * sequences,
        length, dim]`."""
        batch = self.shape.kv_heads * sequences
        keys = self._keys[layer].index_select(0, block_rows)
        values = self._values[layer].index_select(0, block_rows)
        return (
            keys.view(batch, -1, self.shape.key_dim),
            values.view(batch, -1, self.shape.value_dim),
        )

    def read_slots(self, layer: int, slot_rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values at single positions, `[kv_heads, positions, dim]`."""
        pools = (self._keys[layer], self.shape.key_dim), (self._values[layer], self.shape.value_dim)
        keys, values = (
            pool.view(-1, dim).index_select(0, slot_rows).view(self.shape.kv_heads, -1, dim)
            for pool, dim in pools
        )
        return keys, values

    def scrub(self, blocks: list[int]) -> None:
        """Zero blocks that may hold NaN. The tail of a block is read (and masked) before it is
        written, and a masked NaN is still NaN: one request's broken numbers must not reach the next
        owner."""
        rows = self._rows_of([block for block in blocks if block != NULL_BLOCK])
        for pool in (*self._keys, *self._values):
            pool.index_fill_(0, rows[pool.device], 0)

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """What is in each pair's first block goes into its second, in all layers. All are read
        before any is written."""
        sources = self._rows_of([source for source, _ in pairs])
        targets = self._rows_of([target for _, target in pairs])
        for pool in (*self._keys, *self._values):
            copied = pool.index_select(0, sources[pool.device])
            pool.index_copy_(0, targets[pool.device], copied)

    def is_finite(self, blocks: list[int]) -> bool:
        """Whether these blocks hold numbers and nothing else: a NaN or an infinity is in their sum
        too. (So is an overflow of huge numbers; such blocks pass for broken.)"""
        rows = self._rows_of(blocks)
        sums = []
        for pools in (self._keys, self._values):
            for device in self.devices:
                here = [pool for pool in pools if pool.device == device]
                # One for all layers: fresh memory costs several times as much as the look at it.
                held = here[0].new_empty(len(rows[device]), here[0].shape[1])
                for pool in here:
                    torch.index_select(pool, 0, rows[device], out=held)
                    sums.append(held.sum(dtype=torch.float32).to(self.device))
        return bool(torch.stack(sums).isfinite().all())

    def _rows_of(self, blocks: list[int]) -> dict[torch.device, Tensor]:
        """On each device."""
        numbers = torch.tensor(blocks, dtype=torch.long)
        return {device: self.block_rows(numbers, device) for device in self.devices}


def zeros(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Like torch.zeros, which would write to every page at once: the system zeroes these when they
    are first touched.

    Small pages, for a new block is in every pool: with huge ones (numpy asks for them) a step that
    comes to the next one in each waits half a second.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        memory = mmap.mmap(-1, size[0] * size[1] * dtype.itemsize, flags=flags)
    except OSError as error:
        raise MemoryError(str(error)) from error
    with suppress(AttributeError, OSError):  # not everywhere is there such advice
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(size)
