"""The loop: requests come in, one forward pass serves them all, events go out."""

import logging
from collections import deque
from collections.abc import Callable, Collection

from torch import Tensor
from torch.nn.functional import normalize

from llmapi.engine.beam import BeamSearch, UnusableLogits, run_beam_search
from llmapi.engine.blocks import BlockPool
from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.messages import (
    Embedding,
    EmbedRequest,
    Event,
    Finish,
    FinishReason,
    GenerateRequest,
    RequestFailed,
    StepOutput,
    TextDelta,
)
from llmapi.engine.pace import Pace
from llmapi.engine.requests import sequences_of, why_refused
from llmapi.engine.runner import Runner, StepResult
from llmapi.engine.sampler import Sampler
from llmapi.engine.scheduler import Chunk, Scheduler, Step
from llmapi.engine.sequence import Sequence
from llmapi.engine.vocabulary import Vocabulary

log = logging.getLogger(__name__)

BROKEN_NUMBERS = "The model gave no usable numbers for this request."
INTERNAL_ERROR = "The engine failed while it worked on this request; it goes on. Please try again."


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
        shared_prefixes: tuple[tuple[int, ...], ...] = (),
        is_aborted: Callable[[str], bool] = lambda request_id: False,
    ) -> None:
        """`runner` has its cache. `pace` None: prompts take all of `step_tokens` that decoding
        leaves. `shared_prefixes`: beginnings of prompts, as token ids, that users may find in each
        other's cache. `is_aborted` is asked during a beam search, which nothing else interrupts."""
        self._runner = runner
        self._vocabulary = vocabulary
        self._eos = tuple(eos_token_ids)
        self._context_length = context_length
        self._is_aborted = is_aborted
        blocks = BlockPool(runner.cache.blocks - 1, runner.cache.block_size)
        self._pace = pace
        self._scheduler = Scheduler(
            blocks,
            max_batch=max_batch,
            step_tokens=step_tokens,
            pace=pace,
            shared_prefixes=shared_prefixes,
        )
        self._sampler = Sampler(runner.vocab_size, runner.device)
        self._live: dict[str, set[Sequence]] = {}
        """Requests with sequences in the scheduler."""
        self._beams: deque[BeamSearch] = deque()
        self._sums: dict[Sequence, Tensor] = {}
        """Inputs to embed: the last hidden states of the chunks so far, added up."""
        self._events: list[Event] = []

    # ---- requests --------------------------------------------------------------------------------

    def add(self, request: GenerateRequest | EmbedRequest) -> None:
        """Queue a request. One that can never be served fails at the next step, with the reason."""
        try:
            self._add(request)
        except Exception:
            log.exception("A request could not be taken up")
            self._fail(request.request_id, INTERNAL_ERROR)

    def _add(self, request: GenerateRequest | EmbedRequest) -> None:
        limits = {"context_length": self._context_length, "vocab_size": self._runner.vocab_size}
        if request.request_id in self._live:
            self._fail(request.request_id, "A request with this id is already running.")
        elif reason := why_refused(request, **limits):
            self._fail(request.request_id, reason)
        elif isinstance(request, GenerateRequest) and request.params.num_beams > 1:
            self._add_beams(request)
        else:
            self._add_sequences(request)

    def abort(self, request_id: str) -> None:
        """Forget a request; what it held is free at once. Unknown ids are ignored."""
        self._beams = deque(b for b in self._beams if b.request_id != request_id)
        for sequence in tuple(self._live.get(request_id, ())):
            self._remove(sequence, clean=False)
        self._events = [e for e in self._events if e.request_id != request_id]

    @property
    def has_work(self) -> bool:
        """Whether `step()` would do or tell anything."""
        return bool(self._live or self._beams or self._events)

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds, whether or not something worth keeping is in them."""
        return self._scheduler.blocks.available

    # ---- one step --------------------------------------------------------------------------------

    def step(self) -> StepOutput:
        """One forward pass for everyone, then at most one beam search; never raises for a request's
        sake."""
        if self._pace:
            self._pace.start()
        step = self._scheduler.schedule()
        chunks = step.chunks
        if chunks:
            try:
                result = self._forward(step)
                drawing = [chunk.sequence for chunk in chunks if chunk.draws]
                tokens = self._sampler.sample(result.logits, drawing)
                self._advance(chunks, drawing, tokens)
            except Exception:
                log.exception("A forward pass over %d sequences failed", len(chunks))
                self._fail_all(chunks)
            else:
                self._add_up(chunks, result)
                self._extend(drawing, tokens)
                if self._pace:
                    self._pace.finish(step.rows, step.prompt_tokens)
        if self._beams:
            self._search(self._beams.popleft())
        return self._output(chunks)

    def _forward(self, step: Step) -> StepResult:
        for sequence in step.preempted:
            self._sums.pop(sequence, None)
        if step.dirty:
            self._runner.cache.scrub(step.dirty)
        if step.copies:
            self._runner.cache.copy_blocks(step.copies)
        return self._runner.forward(step.chunks)

    def _advance(
        self, chunks: list[Chunk], drawing: list[Sequence], tokens: list[int | None]
    ) -> None:
        """Note what has been computed, and let others take over what is known to be sound."""
        self._scheduler.advance(chunks)
        prefixes = self._scheduler.prefixes
        for sequence, token in zip(drawing, tokens, strict=True):
            if token is not None:  # a NaN before it would have reached its logits
                prefixes.publish(sequence)
        for sequence in (c.sequence for c in chunks if c.sequence.params and not c.draws):
            filled = prefixes.unpublished(sequence)
            if filled and self._runner.cache.is_finite(filled):
                prefixes.publish(sequence)

    def _add_up(self, chunks: list[Chunk], result: StepResult) -> None:
        embedding = [chunk for chunk in chunks if chunk.sequence.params is None]
        for chunk, chunk_sum in zip(embedding, result.sums, strict=True):
            sequence = chunk.sequence
            if not self._is_live(sequence):
                continue
            before = self._sums.pop(sequence, None)
            total = chunk_sum if before is None else before + chunk_sum
            if not chunk.completes:
                self._sums[sequence] = total
            elif (
                sequence.request_id in self._live
            ):  # not failed by an earlier input of the same request
                self._finish_embedding(sequence, total)

    def _finish_embedding(self, sequence: Sequence, total: Tensor) -> None:
        vector = normalize(total / sequence.prompt_tokens, dim=-1).cpu()
        if not vector.isfinite().all():
            self._fail(sequence.request_id, BROKEN_NUMBERS)
            return
        data = vector.numpy().astype("<f4").tobytes()
        self._events.append(Embedding(sequence.request_id, sequence.index, data))
        self._remove(sequence)

    def _extend(self, sequences: list[Sequence], tokens: list[int | None]) -> None:
        """Give each sequence its new token and tell what came of it."""
        for sequence, token in zip(sequences, tokens, strict=True):
            if not self._is_live(sequence):
                continue
            if token is None:
                self._fail(sequence.request_id, BROKEN_NUMBERS)
                continue
            try:
                self._extend_one(sequence, token)
            except Exception:
                log.exception("A request failed on its own")
                self._fail(sequence.request_id, INTERNAL_ERROR)

    def _extend_one(self, sequence: Sequence, token: int) -> None:
        params, detokenizer = sequence.params, sequence.detokenizer
        if params is None or detokenizer is None:
            raise TypeError("nothing is drawn for an input to embed")
        sequence.tokens.append(token)
        sequence.unreported_tokens += 1
        ended = token in self._eos
        text = "" if ended else detokenizer.push(token)
        full = sequence.drawn == params.max_tokens
        if (ended or full) and not detokenizer.stopped:
            text += detokenizer.finish()
        if text:
            self._tell(sequence, text)
        if ended or detokenizer.stopped:
            self._finish(sequence, FinishReason.STOP)
        elif full:
            self._finish(sequence, FinishReason.LENGTH)

    def _tell(self, sequence: Sequence, text: str) -> None:
        drawn, sequence.unreported_tokens = sequence.unreported_tokens, 0
        self._events.append(TextDelta(sequence.request_id, sequence.index, text, drawn))

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._remove(sequence)
        self._events.append(
            Finish(
                sequence.request_id,
                sequence.index,
                reason,
                prompt_tokens=sequence.prompt_tokens,
                completion_tokens=sequence.drawn,
                cached_tokens=sequence.cached_tokens or 0,
            )
        )

    def _output(self, chunks: list[Chunk]) -> StepOutput:
        events, self._events = tuple(self._events), []
        return StepOutput(
            events,
            step=self._runner.forwards,
            running=self._scheduler.running,
            waiting=self._scheduler.waiting + len(self._beams),
            batch_tokens=sum(chunk.count for chunk in chunks),
        )

    # ---- coming and going ------------------------------------------------------------------------

    def _add_sequences(self, request: GenerateRequest | EmbedRequest) -> None:
        sequences = list(sequences_of(request))
        for sequence in sequences:
            if not self._scheduler.can_ever_fit(sequence):
                self._fail(request.request_id, self._too_big(sequence.positions))
                return
        self._live[request.request_id] = set(sequences)
        for sequence in sequences:
            if sequence.params is not None:
                sequence.detokenizer = self._detokenizer(sequence.tokens, sequence.params.stop)
                self._sampler.add(sequence, sequence.params)
            self._scheduler.add(sequence)

    def _add_beams(self, request: GenerateRequest) -> None:
        # Beams keep their own cache while they run; they may use as much as all the others
        # together.
        params = request.params
        longest = max(map(len, request.prompts)) + params.max_tokens
        positions = longest * params.num_beams
        if positions > self._runner.cache.block_size * self._scheduler.blocks.total:
            self._fail(request.request_id, self._too_big(positions))
            return
        for place, prompt in enumerate(request.prompts):
            first = place * request.n
            self._beams.append(BeamSearch(request.request_id, first, prompt, params, request.n))

    def _too_big(self, positions: int) -> str:
        room = self._runner.cache.block_size * self._scheduler.blocks.total
        return (
            f"This request needs room for {positions} tokens at once and the server has {room}: "
            "shorten the prompt, or lower max_tokens or num_beams."
        )

    def _detokenizer(self, prompt: list[int], stop: tuple[str, ...]) -> Detokenizer:
        return Detokenizer(self._vocabulary.stream(prompt), stop)

    def _is_live(self, sequence: Sequence) -> bool:
        """False once another choice or input of the same request has failed it within this step."""
        return sequence in self._live.get(sequence.request_id, ())

    def _remove(self, sequence: Sequence, *, clean: bool = True) -> None:
        """Free all that a sequence holds. Not `clean`: its blocks may hold broken numbers."""
        if not clean:
            pool = self._scheduler.blocks
            if dirty := [block for block in sequence.blocks if pool.is_private(block)]:
                self._runner.cache.scrub(dirty)
        self._scheduler.remove(sequence)
        self._sampler.remove(sequence)
        self._sums.pop(sequence, None)
        siblings = self._live[sequence.request_id]
        siblings.discard(sequence)
        if not siblings:
            del self._live[sequence.request_id]

    def _fail(self, request_id: str, message: str) -> None:
        """End a request without an answer: nothing of it is told but this."""
        self.abort(request_id)
        self._events.append(RequestFailed(request_id, message))

    def _fail_all(self, chunks: list[Chunk]) -> None:
        for request_id in dict.fromkeys(chunk.sequence.request_id for chunk in chunks):
            self._fail(request_id, INTERNAL_ERROR)

    # ---- beams -----------------------------------------------------------------------------------

    def _search(self, search: BeamSearch) -> None:
        request_id, params = search.request_id, search.params
        try:
            choices = run_beam_search(
                search,
                self._runner,
                self._eos,
                detokenizer=lambda: self._detokenizer(list(search.prompt), params.stop),
                aborted=lambda: self._is_aborted(request_id),
            )
        except UnusableLogits:
            self._fail(request_id, BROKEN_NUMBERS)
            return
        except Exception:
            log.exception("A beam search failed")
            self._fail(request_id, INTERNAL_ERROR)
            return
        for choice in choices:
            if choice.text:
                self._events.append(TextDelta(request_id, choice.index, choice.text, choice.tokens))
            prompt_tokens = len(search.prompt)
            self._events.append(
                Finish(request_id, choice.index, choice.reason, prompt_tokens, choice.tokens)
            )
