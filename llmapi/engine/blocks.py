"""Who owns which block of the key/value cache. Knows no torch: a block is a number."""

NULL_BLOCK = 0
"""Belongs to nobody and stays zero for ever: what short sequences are padded with when rows of
different lengths are read together. (Zero, not garbage: a masked weight is 0, but 0 * NaN is
NaN.)"""


class BlockPool:
    """Blocks of `block_size` positions each, handed out and taken back whole.

    The last block given back is the first handed out again, so that a lightly used server touches
    little of the memory that the cache may grow to.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        """`blocks` counts the usable ones; the null block comes on top."""
        self.block_size = block_size
        self.total = blocks
        self._free = list(range(blocks, NULL_BLOCK, -1))
        self._taken: set[int] = set()

    @property
    def available(self) -> int:
        return len(self._free)

    def count_for(self, positions: int) -> int:
        """Blocks that hold so many positions."""
        return -(-positions // self.block_size)

    def can_allocate(self, count: int) -> bool:
        return count <= len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks. Ask `can_allocate` first: too many is a bug, and raises IndexError."""
        if not self.can_allocate(count):
            raise IndexError(f"{count} blocks wanted, {len(self._free)} free")
        blocks = [self._free.pop() for _ in range(count)]
        self._taken.update(blocks)
        return blocks

    def free(self, blocks: list[int]) -> None:
        """Give blocks back. Giving one back twice is a bug that would mix two users' texts:
        KeyError."""
        for block in blocks:
            self._taken.remove(block)
        self._free.extend(reversed(blocks))
