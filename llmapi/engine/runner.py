"""All device work: the model, its cache, and one forward pass per step."""

from collections.abc import Iterator
from collections.abc import Sequence as ListOf
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmapi.engine.attention import IMPLEMENTATION, ShapeProbe, UnsupportedModel
from llmapi.engine.blocks import BlockPool
from llmapi.engine.cache import CacheShape, KVCache
from llmapi.engine.messages import SamplingParams
from llmapi.engine.plan import AttentionPlan
from llmapi.engine.scheduler import Chunk
from llmapi.engine.sequence import Sequence

CHECK_TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""How far our logits may be from transformers' own, as a part of the largest."""


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
    """The generic path: any causal language model of transformers whose attention is replaceable.

    All sequences of a step lie flattened in one row, `[1, tokens]`, each with its own positions;
    the attention plan keeps them apart.
    """

    def __init__(self, model: Any) -> None:
        """`model`: a transformers causal language model on its device. Raises UnsupportedModel."""
        self.model = model.eval().requires_grad_(False)
        self.device = torch.device(model.device)
        self.forwards = 0
        self._own_attention = model.config._attn_implementation
        self._hidden: Tensor | None = None
        self._body_output: Any = None
        """The type of what the model's body returns."""
        self._cache: KVCache | None = None
        base = getattr(model, model.base_model_prefix)
        base.register_forward_hook(self._keep_hidden)
        self._install()
        self.shape = self._probe()

    @property
    def vocab_size(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def cache(self) -> KVCache:
        if self._cache is None:
            raise RuntimeError("allocate the cache first")
        return self._cache

    def allocate_cache(self, blocks: int, block_size: int) -> None:
        """Make room for `blocks` usable blocks, and check on it that the model computes what it
        should.

        Raises UnsupportedModel, or torch's out-of-memory error.
        """
        self._cache = KVCache(self.shape, blocks=blocks, block_size=block_size, device=self.device)
        self._check()

    @torch.inference_mode()
    def forward(self, chunks: ListOf[Chunk]) -> StepResult:
        """One pass over all chunks, of whatever kind. Counts as one forward pass, however it
        ends."""
        self.forwards += 1
        plan = AttentionPlan(self.cache, chunks)
        firsts = {}
        tokens: list[int] = []
        positions: list[int] = []
        for chunk in plan.order:
            firsts[chunk] = len(tokens)
            tokens += chunk.sequence.tokens[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
        drawing = [firsts[chunk] + chunk.count - 1 for chunk in chunks if chunk.draws]
        try:
            logits = self._call(plan, tokens, positions, drawing)
            sums = [
                self._last_hidden()[0, firsts[c] : firsts[c] + c.count].float().sum(0)
                for c in chunks
                if c.sequence.params is None
            ]
            scored = [self._last_hidden()[0, _rows(firsts[c], c)] for c in chunks if c.scored]
        finally:
            self._hidden = None
        return StepResult(logits, sums, scored)

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[rows, vocab]` of last hidden states `[rows, hidden_size]`."""
        # Through the model's own forward, for its scaling and capping; its body is stood in for.
        name = self.model.base_model_prefix
        body = getattr(self.model, name)
        setattr(self.model, name, _Known(self._body_output(last_hidden_state=hidden[None])))
        try:
            logits: Tensor = self.model(input_ids=None, use_cache=False).logits[0]
        finally:
            setattr(self.model, name, body)
        return logits

    @contextmanager
    def own_attention(self) -> Iterator[Any]:
        """The model as transformers made it, for `generate`."""
        self.model.set_attn_implementation(self._own_attention)
        try:
            yield self.model
        finally:
            self._hidden = None
            self._install()

    def _install(self) -> None:
        self.model.set_attn_implementation(IMPLEMENTATION)
        if self.model.config._attn_implementation != IMPLEMENTATION:
            raise UnsupportedModel("this model does not let its attention be replaced")

    def _keep_hidden(self, _module: Any, _args: Any, output: Any) -> None:
        # The head is inside the model's own forward (with its scaling and capping), so one call
        # gives both the logits of a few rows and every row's last hidden state.
        self._hidden = output.last_hidden_state
        self._body_output = type(output)

    def _last_hidden(self) -> Tensor:
        if self._hidden is None:
            raise UnsupportedModel("this model does not show its last hidden state")
        return self._hidden

    def _call(self, plan: Any, tokens: list[int], positions: list[int], keep: list[int]) -> Tensor:
        """Logits `[len(keep), vocab]` of the rows in `keep`; the head is computed for no others."""
        output = self.model(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.tensor([positions], device=self.device),
            logits_to_keep=torch.tensor(keep, dtype=torch.long, device=self.device),
            use_cache=False,
            engine_plan=plan,
        )
        logits: Tensor = output.logits[0]
        return logits

    @torch.inference_mode()
    def _probe(self) -> CacheShape:
        """Ask the model itself what its layers store, rather than guess from its config."""
        probe = ShapeProbe()
        self._call(probe, [0, 0], [0, 1], [1])
        shapes = set(probe.seen.values())
        if len(shapes) != 1 or sorted(probe.seen) != list(range(len(probe.seen))):
            raise UnsupportedModel("its layers store keys and values of different shapes")
        kv_heads, key_dim, value_dim, dtype = shapes.pop()
        return CacheShape(len(probe.seen), kv_heads, key_dim, value_dim, dtype)

    @torch.inference_mode()
    def _check(self) -> None:
        """Two short sequences through the cache against the model's own attention.

        Cheap, and it catches every way in which a model may need more than our attention gives
        (biases, sinks, arguments that never arrive) before a user reads nonsense.
        """
        pool = BlockPool(self.cache.blocks - 1, self.cache.block_size)
        prompts = [[(7 * i + 3) % self.vocab_size for i in range(n)] for n in (5, 9)]
        params = SamplingParams(max_tokens=1)
        short, long = (Sequence("", i, "", len(p), p, params) for i, p in enumerate(prompts))
        for sequence in (short, long):
            sequence.blocks = pool.allocate(pool.count_for(len(sequence.tokens)))
        self.forward([Chunk(short, 0, 4), Chunk(long, 0, 5)])
        self.forward([Chunk(short, 4, 1), Chunk(long, 5, 3)])
        ours = self.forward([Chunk(long, 8, 1)]).logits[0].float()
        with self.own_attention() as model:
            theirs = model(input_ids=torch.tensor([long.tokens], device=self.device)).logits[0, -1]
        self.cache.scrub(short.blocks + long.blocks)
        self.forwards = 0
        allowed = CHECK_TOLERANCE[self.shape.dtype] * float(theirs.abs().max())
        if not float((ours - theirs.float()).abs().max()) <= allowed:
            raise UnsupportedModel("its attention needs something that this engine lacks")


def _rows(first: int, chunk: Chunk) -> slice:
    """Rows of the flattened batch, where the chunk begins at `first`, of its scored positions."""
    scored = chunk.scored
    return slice(first + scored.start - chunk.start, first + scored.stop - chunk.start)


class _Known(torch.nn.Module):
    """Stands in for a model's body whose output is known already."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self._output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._output
