"""Who owns which block of the key/value cache. Knows no torch: a block is a number."""

from collections import Counter, OrderedDict

NULL_BLOCK = 0
"""Belongs to nobody and stays zero for ever: what short sequences are padded with when rows of
different lengths are read together. (Zero, not garbage: a masked weight is 0, but 0 * NaN is
NaN.)"""


def most_blocks(prompt: int, positions: int, *, beams: int, block_size: int) -> int:
    """What a sequence, or so many forks of it, may hold at worst: the prompt's full blocks once,
    all else each. `positions`: the prompt's and the answer's."""
    shared = prompt // block_size if beams > 1 else 0
    return shared + beams * (-(-positions // block_size) - shared)


class BlockPool:
    """Blocks of `block_size` positions each, held by any number of sequences.

    A block is **held** (by one sequence or several), **cached** (held by nobody, but its key is
    known, so that somebody may take it over) or **free**. Free ones are handed out first, then the
    cached one that has been without a holder longest. The last block given back is the first handed
    out again, so that a lightly used server touches little of the memory that the cache may grow
    to.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        """`blocks` counts the usable ones; the null block comes on top."""
        self.block_size = block_size
        self.total = blocks
        self._free = list(range(blocks, NULL_BLOCK, -1))
        self._holders: dict[int, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        """Longest without a holder first."""
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that can be handed out: free ones and cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and that somebody may take over by their key."""
        return len(self._cached)

    def count_for(self, positions: int) -> int:
        """Blocks that hold so many positions."""
        return -(-positions // self.block_size)

    def can_allocate(self, count: int) -> bool:
        return count <= self.available

    def allocate(self, count: int) -> list[int]:
        """`count` blocks. Ask `can_allocate` first: too many is a bug, and raises IndexError."""
        if not self.can_allocate(count):
            raise IndexError(f"{count} blocks wanted, {self.available} free")
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._holders[block] = 1
        return block

    def share(self, blocks: list[int]) -> None:
        """One more holder for blocks that are held or cached."""
        for block in blocks:
            if block in self._cached:
                del self._cached[block]
                self._holders[block] = 1
            else:
                self._holders[block] += 1

    def free(self, blocks: list[int]) -> None:
        """One holder less for each. Giving one back twice is a bug that would mix two users' texts:
        KeyError.

        From the last to the first: a block is worthless without those before it, so the end of a
        text is evicted before its beginning.
        """
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    # ---- keys ------------------------------------------------------------------------------------

    def publish(self, block: int, key: bytes) -> None:
        """What a held block contains may be taken over under `key`; the first under a key stays."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def find(self, key: bytes) -> int | None:
        return self._block_of.get(key)

    def key_of(self, block: int) -> bytes | None:
        return self._key_of.get(block)

    def is_cached(self, block: int) -> bool:
        """Held by nobody, and nevertheless worth something."""
        return block in self._cached

    def is_shared(self, block: int) -> bool:
        """Held by several: nobody may write into it."""
        return self._holders[block] > 1

    def is_private(self, block: int) -> bool:
        """Held by one alone and unknown to everybody else."""
        return self._holders[block] == 1 and block not in self._key_of

    # ---- integrity -------------------------------------------------------------------------------

    def check(self, held: Counter[int]) -> None:
        """Raises RuntimeError unless the books agree with each other and with `held`: how many
        sequences hold each block."""
        everywhere = sorted([*self._free, *self._cached, *self._holders])
        if everywhere != list(range(1, self.total + 1)):
            raise RuntimeError("a block is lost, or in two places")
        if self._holders != dict(held):
            raise RuntimeError("the holders of a block are miscounted")
        if self._key_of != {block: key for key, block in self._block_of.items()}:
            raise RuntimeError("keys and blocks do not match")
        if not self._cached.keys() <= self._key_of.keys() or any(
            block in self._key_of for block in self._free
        ):
            raise RuntimeError("a cached block has no key, or a free one has")
