"""Beginnings of texts that have been computed before, and need not be again. Knows no torch."""

from array import array
from hashlib import blake2b

from llmapi.engine.blocks import BlockPool
from llmapi.engine.sequence import Sequence

DIGEST_BYTES = 32
"""A collision would mix two texts. Nobody can find one for a digest of this length."""
NOBODY = bytes(DIGEST_BYTES)
"""Stands for the user in blocks that everyone may share, and for what comes before the first
block."""


class PrefixCache:
    """Full blocks by their key: a hash over the key before it (at first, what names the adapter),
    the user and the block's tokens.

    So equal keys mean equal beginnings, and only the same user's: how fast an answer comes tells
    nobody what others have asked. The exception is a sequence's `shared_tokens`, which are no
    secret.
    """

    def __init__(self, blocks: BlockPool) -> None:
        self._blocks = blocks
        self._expected: dict[bytes, Sequence] = {}
        """Keys of blocks that a running sequence is about to publish."""

    # ---- taking over -----------------------------------------------------------------------------

    def find(self, sequence: Sequence) -> list[int]:
        """The longest beginning of its tokens that is there; whoever takes it must share it."""
        found: list[int] = []
        for key in self._wanted(sequence):
            block = self._blocks.find(key)
            if block is None:
                break
            found.append(block)
        return found

    def is_coming(self, sequence: Sequence) -> bool:
        """Whether a running sequence is about to compute what this one would have to."""
        if sequence.waits_for not in self._expected:
            found, wanted = len(self.find(sequence)), self._wanted(sequence)
            sequence.waits_for = wanted[found] if found < len(wanted) else None
        return sequence.waits_for in self._expected

    def _wanted(self, sequence: Sequence) -> list[bytes]:
        """Never all of its tokens: the last one's row is what the next is drawn from."""
        full = (len(sequence.tokens) - 1) // self._blocks.block_size
        return self._keys(sequence, full) if sequence.may_skip else []

    # ---- giving ----------------------------------------------------------------------------------

    def expect(self, sequence: Sequence) -> None:
        """This one begins to compute its tokens; from inputs to embed nothing is kept."""
        if sequence.params is not None:
            full = len(sequence.tokens) // self._blocks.block_size
            for key in self._keys(sequence, full)[sequence.published :]:
                self._expected.setdefault(key, sequence)

    def forget(self, sequence: Sequence) -> None:
        """It will publish nothing more."""
        for key in sequence.keys:
            if self._expected.get(key) is sequence:
                del self._expected[key]

    def unpublished(self, sequence: Sequence) -> list[int]:
        """Its computed blocks that could be taken over once they are published."""
        return sequence.blocks[sequence.published : self._full(sequence)]

    def publish(self, sequence: Sequence) -> None:
        """All that is computed of a running sequence is sound: others may take it over. Never say
        that of NaN: it would end every later request with the same beginning."""
        full = self._full(sequence)
        keys = self._keys(sequence, full)
        for place in range(sequence.published, full):
            self._blocks.publish(sequence.blocks[place], keys[place])
            self._expected.pop(keys[place], None)
        sequence.published = full

    def _full(self, sequence: Sequence) -> int:
        """Computed blocks worth keeping. A family's answers stay its own: blocks that outsiders
        hold would not come back to it when a beam is dropped."""
        known = sequence.computed
        if sequence.family is not None:
            known = min(known, sequence.prompt_tokens)
        return known // self._blocks.block_size

    # ---- keys ------------------------------------------------------------------------------------

    def _keys(self, sequence: Sequence, count: int) -> list[bytes]:
        """The keys of the sequence's first `count` blocks, all of them full."""
        keys, size = sequence.keys, self._blocks.block_size
        if len(keys) < count:
            user = blake2b(
                sequence.user.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES
            ).digest()
        while len(keys) < count:
            end = (len(keys) + 1) * size
            salt = NOBODY if end <= sequence.shared_tokens else user
            tokens = array("I", sequence.tokens[end - size : end]).tobytes()
            before = keys[-1] if keys else sequence.adapter.salt if sequence.adapter else NOBODY
            keys.append(blake2b(before + salt + tokens, digest_size=DIGEST_BYTES).digest())
        return keys[:count]

    # ---- integrity -------------------------------------------------------------------------------

    def check(self, running: list[Sequence]) -> None:
        """Raises RuntimeError if somebody could take over what is not his, or waits for nobody."""
        for sequence in running:
            for place, block in enumerate(sequence.blocks):
                key = self._blocks.key_of(block)
                if place >= sequence.published and key is not None:
                    raise RuntimeError("a block can be found that was never published")
                if place < sequence.published and key not in (None, sequence.keys[place]):
                    raise RuntimeError("a block is found under another text's key")
        if any(sequence not in running for sequence in self._expected.values()):
            raise RuntimeError("a block is expected from nobody")
