"""All device work of a step: one pass of the network over the cache, and what the loop needs of
it."""

from collections.abc import Sequence as ListOf
from dataclasses import dataclass

import torch
from torch import Tensor

from llmapi.engine.attention import UnsupportedModel
from llmapi.engine.blocks import BlockPool
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.messages import SamplingParams
from llmapi.engine.network import Network
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk

CHECK_LENGTHS = (5, 9)


@dataclass(frozen=True, slots=True)
class StepResult:
    logits: Tensor
    """`[chunks that draw, vocab]`, in the order of the chunks given."""
    sums: list[Tensor]
    """`[hidden_size]` float32 for each chunk of an input to embed, in order: its last hidden
    states, added up."""
    scored: list[Tensor]
    """`[len(chunk.scored), hidden_size]` for each chunk with `scored` positions, in order: their
    last hidden states, as `Runner.head` takes them. (Not their logits: all of a chunk's at once
    could be larger than the model.)"""


class Runner:
    """A network and its cache."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.forwards = 0
        self._cache: KVCache | None = None

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def shape(self) -> CacheShape:
        return self.network.shape

    @property
    def vocab_size(self) -> int:
        return self.network.vocab_size

    @property
    def cache(self) -> KVCache:
        if self._cache is None:
            raise RuntimeError("allocate the cache first")
        return self._cache

    def allocate_cache(self, blocks: int, block_size: int) -> None:
        """Make room for `blocks` usable blocks. Raises torch's out-of-memory error, or
        MemoryError on a CPU."""
        self._cache = KVCache(self.shape, blocks=blocks, block_size=block_size, device=self.device)
        self.network.use(self._cache)

    @torch.inference_mode()
    def forward(self, chunks: ListOf[Chunk]) -> StepResult:
        """One pass over all chunks, of whatever kind. Counts as one forward pass, however it
        ends."""
        self.forwards += 1
        found = list(zip(chunks, self.network.forward(chunks), strict=True))
        last = [hidden[-1:] for chunk, hidden in found if chunk.draws]
        sums = [hidden.float().sum(0) for chunk, hidden in found if chunk.sequence.params is None]
        scored = [hidden[_rows(chunk)] for chunk, hidden in found if chunk.scored]
        logits = self.head(torch.cat(last)) if last else torch.empty(0, self.vocab_size)
        return StepResult(logits, sums, scored)

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[rows, vocab]` of last hidden states `[rows, hidden_size]`."""
        return self.network.head(hidden)

    def check(self, theirs: Tensor) -> None:
        """Two short sequences through the cache, in chunks, against transformers' own logits
        `[vocab]` of the last token of `check_prompts(vocab)[1]`.

        Cheap, and it catches every way in which a model may need more than the network gives
        (biases, sinks, arguments that never arrive) before a user reads nonsense. Raises
        UnsupportedModel.
        """
        pool = BlockPool(self.cache.usable, self.cache.block_size)
        params = SamplingParams(max_tokens=1)
        short, long = (
            Sequence("", i, "", len(p), p, params)
            for i, p in enumerate(check_prompts(self.vocab_size))
        )
        for sequence in (short, long):
            sequence.blocks = pool.allocate(pool.count_for(len(sequence.tokens)))
        self.forward([Chunk(short, 0, 4), Chunk(long, 0, 5)])
        self.forward([Chunk(short, 4, 1), Chunk(long, 5, 3)])
        ours = self.forward([Chunk(long, 8, 1)]).logits[0].float().cpu()
        self.cache.scrub(short.blocks + long.blocks)
        self.forwards = 0
        allowed = self.network.tolerance * float(theirs.abs().max())
        if not float((ours - theirs).abs().max()) <= allowed:
            raise UnsupportedModel("its attention needs something that this engine lacks")


def _rows(chunk: Chunk) -> slice:
    """Of its hidden states, those of its scored positions."""
    return slice(chunk.scored.start - chunk.start, chunk.scored.stop - chunk.start)


def check_prompts(vocab_size: int) -> list[list[int]]:
    """A short and a longer prompt for `Runner.check`."""
    return [[(7 * i + 3) % vocab_size for i in range(n)] for n in CHECK_LENGTHS]
