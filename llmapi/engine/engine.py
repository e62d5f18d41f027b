"""The loop: requests come in, one forward pass serves them all, events go out."""

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import compress, count
from pathlib import Path

from torch import Tensor

from llmapi.engine.adapters import Adapter, info_of, read_deltas
from llmapi.engine.answers import Answers
from llmapi.engine.blocks import BlockPool
from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.embedder import Embedder
from llmapi.engine.logprobs import BrokenNumbers, Scorer
from llmapi.engine.messages import (
    AdapterFailed,
    AdapterLoaded,
    Embedding,
    EmbedRequest,
    Figures,
    FinishReason,
    GenerateRequest,
    RequestFailed,
    StepOutput,
    TokenLogprob,
)
from llmapi.engine.pace import Pace
from llmapi.engine.requests import sequences_of, too_big, why_refused
from llmapi.engine.runner import Runner, StepResult
from llmapi.engine.sampler import Sampler
from llmapi.engine.scheduler import Scheduler
from llmapi.engine.searches import Search, Turn
from llmapi.engine.sequence import Sequence
from llmapi.engine.source import LoadError
from llmapi.engine.step import Chunk, Step
from llmapi.engine.vocabulary import Vocabulary
from llmapi.engine.workload import Workload

log = logging.getLogger(__name__)

BROKEN_NUMBERS = "The model gave no usable numbers for this request."
INTERNAL_ERROR = "The engine failed while it worked on this request; it goes on. Please try again."

Drawn = list[tuple[Sequence, int | None, TokenLogprob | None]]
"""Each sequence with its new token; None: there were no usable numbers to draw it from."""


class Engine:
    """Owns the running requests. Not thread-safe: one thread adds, aborts and steps.

    What happens between two steps is told by the next `step()`.
    """

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        *,
        eos_token_ids: Collection[int],
        context_length: int,
        max_batch: int,
        step_tokens: int,
        pace: Pace | None = None,
    ) -> None:
        """`runner` has its cache. `pace` None: prompts take all of `step_tokens` that decoding
        leaves."""
        self.runner = runner
        self._vocabulary = vocabulary
        self._eos = tuple(eos_token_ids)
        self._context_length = context_length
        self._max_batch = max_batch
        self._pace = pace
        self._scheduler = Scheduler(
            BlockPool(runner.cache.usable, runner.cache.block_size),
            max_batch=max_batch,
            step_tokens=step_tokens,
            pace=pace,
        )
        self._sampler = Sampler()
        self._scorer = Scorer(vocabulary, runner.head, runner.vocab_size)
        self._embedder = Embedder()
        self._answers = Answers()
        self._workload = Workload()
        self._live: dict[str, set[Sequence]] = {}
        """Requests with sequences in the scheduler."""
        self._adapters: dict[str, Adapter] = {}
        self._generations = count()
        self._searches: list[Search] = []
        """Whose beams are some of these sequences."""

    # ---- requests --------------------------------------------------------------------------------

    def add(self, request: GenerateRequest | EmbedRequest) -> None:
        """Queue a request. One that can never be served fails at the next step, with the reason."""
        with self._failing_alone(request.request_id):
            self._add(request)

    def load_adapter(self, name: str, path: str) -> AdapterLoaded | AdapterFailed:
        """Serve a LoRA adapter under this name from the next step on, in place of one that has
        the name already; requests that use that one go on with it."""
        network = self.runner.network
        try:
            deltas = read_deltas(Path(path), network.projections)
            packed = network.pack(deltas)
        except LoadError as error:
            return AdapterFailed(name, str(error))
        except Exception as error:  # no memory, or a file that nobody foresaw
            log.exception("An adapter could not be loaded")
            reason = f"{type(error).__name__}: {error}"
            return AdapterFailed(name, f"The adapter in '{path}' cannot be loaded ({reason}).")
        self._adapters[name] = Adapter(name, next(self._generations), packed)
        return AdapterLoaded(info_of(name, path, deltas))

    def drop_adapter(self, name: str) -> None:
        """Serve it to no new request. Unknown names are ignored."""
        self._adapters.pop(name, None)

    def abort(self, request_id: str) -> None:
        """Forget a request; what it held is free at once. Unknown ids are ignored."""
        self._searches = [s for s in self._searches if s.request_id != request_id]
        for sequence in tuple(self._live.get(request_id, ())):
            self._remove(sequence, clean=False)
        self._answers.forget(request_id)

    @property
    def has_work(self) -> bool:
        """Whether `step()` would do or tell anything."""
        return bool(self._live or self._answers)

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds, whether or not something worth keeping is in them."""
        return self._scheduler.blocks.available

    def figures(self) -> Figures:
        return self._workload.figures(self._scheduler)

    # ---- one step --------------------------------------------------------------------------------

    def step(self) -> StepOutput:
        """One forward pass for everyone; never raises for a request's sake."""
        began = time.perf_counter()
        if self._pace:
            self._pace.start()
        step = self._scheduler.schedule()
        drawing = [chunk.sequence for chunk in step.chunks if chunk.draws]
        if step.chunks:
            try:
                result = self._forward(step)
                drawn = self._draw(drawing, result.logits)
                self._advance(step.chunks, drawn)
            except Exception:
                log.exception("A forward pass over %d sequences failed", len(step.chunks))
                self._fail_all(step.chunks)
            else:
                self._embed(step.chunks, result)
                self._end_prompts(step.chunks, result)
                self._extend(drawn)
                self._search(drawing, result.logits)
                if self._pace:
                    self._pace.finish(step.rows, step.prompt_tokens)
            self._workload.add(step, time.perf_counter() - began)
        return StepOutput(
            self._answers.take(),
            step=self.runner.forwards,
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            batch_tokens=sum(chunk.count for chunk in step.chunks),
        )

    def _forward(self, step: Step) -> StepResult:
        for sequence in step.preempted:
            self._embedder.remove(sequence)
        if step.dirty:
            self.runner.cache.scrub(step.dirty)
        if step.copies:
            self.runner.cache.copy_blocks(step.copies)
        return self.runner.forward(step.chunks)

    def _draw(self, drawing: list[Sequence], logits: Tensor) -> Drawn:
        """One token for each sequence that is due; beams choose theirs together, in `_search`."""
        alone = [sequence.family is None for sequence in drawing]
        if not all(alone):
            logits, drawing = logits[alone], list(compress(drawing, alone))
        tokens = self._sampler.sample(logits, drawing)
        logprobs = self._scorer.score_drawn(logits, drawing, tokens)
        return list(zip(drawing, tokens, logprobs, strict=True))

    def _advance(self, chunks: list[Chunk], drawn: Drawn) -> None:
        """Note what has been computed, and let others take over what is known to be sound."""
        self._scheduler.advance(chunks)
        prefixes = self._scheduler.prefixes
        for sequence, token, _ in drawn:
            if token is not None:  # a NaN before it would have reached its logits
                prefixes.publish(sequence)
        for sequence in (c.sequence for c in chunks if c.sequence.params and not c.draws):
            filled = prefixes.unpublished(sequence)
            if filled and self.runner.cache.is_finite(filled):
                prefixes.publish(sequence)

    def _embed(self, chunks: list[Chunk], result: StepResult) -> None:
        embedding = [chunk for chunk in chunks if chunk.sequence.params is None]
        for chunk, chunk_sum in zip(embedding, result.sums, strict=True):
            sequence = chunk.sequence
            if not self._is_live(sequence):
                continue
            with self._failing_alone(sequence.request_id):
                self._embedder.add(sequence, chunk_sum)
                if chunk.completes:
                    vector = self._embedder.finish(sequence)
                    self._answers.tell(Embedding(sequence.request_id, sequence.index, vector))
                    self._remove(sequence)

    def _end_prompts(self, chunks: list[Chunk], result: StepResult) -> None:
        """Tell the log probabilities of prompts, and end what draws nothing."""
        scored = iter(result.scored)
        for chunk in chunks:
            sequence, params = chunk.sequence, chunk.sequence.params
            hidden = next(scored) if chunk.scored else None
            if params is None or not self._is_live(sequence):
                continue
            with self._failing_alone(sequence.request_id):
                if sequence.needs_prompt_logits:
                    self._scorer.score_prompt(sequence, chunk.scored, hidden)
                    if not sequence.needs_prompt_logits:
                        self._answers.tell_prompt(sequence)
                if chunk.completes and params.max_tokens == 0:
                    self._finish(sequence, FinishReason.LENGTH)

    def _extend(self, drawn: Drawn) -> None:
        """Give each sequence its new token and tell what came of it."""
        for sequence, token, logprob in drawn:
            if not self._is_live(sequence):
                continue
            with self._failing_alone(sequence.request_id):
                if token is None:
                    raise BrokenNumbers
                if reason := self._answers.extend(sequence, token, logprob):
                    self._finish(sequence, reason)

    def _search(self, drawing: list[Sequence], logits: Tensor) -> None:
        """Take searches one token further. All beams of one are always computed together."""
        rows = {sequence: row for row, sequence in enumerate(drawing)}
        for search in [search for search in self._searches if search.beams[0] in rows]:
            if not self._is_live(search.beams[0]):
                continue
            with self._failing_alone(search.request_id):
                parents = search.beams
                turn = search.step(logits[[rows[beam] for beam in parents]])
                for parent in parents:  # sound, see `_advance`
                    self._scheduler.prefixes.publish(parent)
                self._follow(search, turn)

    def _follow(self, search: Search, turn: Turn) -> None:
        for parent, child in turn.forks:
            self._scheduler.fork(parent, child)
            self._live[search.request_id].add(child)
        if not search.beams:
            self._searches.remove(search)
        for sequence in turn.dropped:
            self._remove(sequence)
        self._answers.tell(*turn.told)

    # ---- coming and going ------------------------------------------------------------------------

    def _add(self, request: GenerateRequest | EmbedRequest) -> None:
        limits = {"context_length": self._context_length, "vocab_size": self.runner.vocab_size}
        if request.request_id in self._live:
            self._fail(request.request_id, "A request with this id is already running.")
        elif reason := why_refused(request, **limits):
            self._fail(request.request_id, reason)
        elif request.adapter and request.adapter not in self._adapters:
            self._fail(request.request_id, f"The model '{request.adapter}' is no longer served.")
        else:
            self._start(request)

    def _start(self, request: GenerateRequest | EmbedRequest) -> None:
        """Put all sequences of a request in line, or none."""
        beams = request.params.num_beams if isinstance(request, GenerateRequest) else 1
        adapter = self._adapters[request.adapter] if request.adapter else None
        sequences = list(sequences_of(request, self._eos, adapter))
        for sequence in sequences:
            if not self._scheduler.can_ever_fit(sequence, beams=beams):
                self._fail(request.request_id, self._too_big(sequence, beams))
                return
        self._live[request.request_id] = set(sequences)
        for sequence in sequences:
            if isinstance(request, GenerateRequest):
                self._prepare(sequence, request)
            self._scheduler.add(sequence, beams=beams)

    def _prepare(self, sequence: Sequence, request: GenerateRequest) -> None:
        """What will make a text of its tokens."""
        if request.params.num_beams == 1:
            stream = self._vocabulary.stream(sequence.tokens)
            sequence.detokenizer = Detokenizer(stream, request.params.stop)
            return
        size, device = self.runner.vocab_size, self.runner.device
        search = Search(sequence, request.n, self._vocabulary, vocab_size=size, device=device)
        self._searches.append(search)

    def _too_big(self, sequence: Sequence, beams: int) -> str:
        needed, size = sequence.positions, self.runner.cache.block_size
        if beams > 1:
            needed = self._scheduler.most_blocks(sequence, beams) * size
        room = self._scheduler.blocks.total * size
        return too_big(needed, beams, room=room, max_batch=self._max_batch)

    def _is_live(self, sequence: Sequence) -> bool:
        """False once another part of the same request has failed it within this step."""
        return sequence in self._live.get(sequence.request_id, ())

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._remove(sequence)
        self._answers.finish(sequence, reason)

    def _remove(self, sequence: Sequence, *, clean: bool = True) -> None:
        """Free all that a sequence holds. Not `clean`: its blocks may hold broken numbers."""
        if not clean:
            pool = self._scheduler.blocks
            if dirty := [block for block in sequence.blocks if pool.is_private(block)]:
                self.runner.cache.scrub(dirty)
        self._scheduler.remove(sequence)
        self._sampler.remove(sequence)
        self._embedder.remove(sequence)
        siblings = self._live[sequence.request_id]
        siblings.discard(sequence)
        if not siblings:
            del self._live[sequence.request_id]

    @contextmanager
    def _failing_alone(self, request_id: str) -> Iterator[None]:
        """Whatever goes wrong in here ends this request, and no other."""
        try:
            yield
        except BrokenNumbers:
            self._fail(request_id, BROKEN_NUMBERS)
        except Exception:
            log.exception("A request failed on its own")
            self._fail(request_id, INTERNAL_ERROR)

    def _fail(self, request_id: str, message: str) -> None:
        """End a request without an answer: nothing of it is told but this."""
        self.abort(request_id)
        self._answers.tell(RequestFailed(request_id, message))

    def _fail_all(self, chunks: list[Chunk]) -> None:
        for request_id in dict.fromkeys(chunk.sequence.request_id for chunk in chunks):
            self._fail(request_id, INTERNAL_ERROR)
