"""What has come of an accepted request so far: texts, tokens, how it ended."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from accounts.limits.limiter import Reservation
from conversations.models import Completion
from conversations.services import ChoiceEnd, CompletionEnd
from llmapi import sse
from llmapi.backends.base import Prepared
from llmapi.engine.messages import (
    Answer,
    Finish,
    FinishReason,
    GenerateRequest,
    PromptLogprobs,
    TextDelta,
    TokenLogprob,
)
from llmapi.keeping import Keeping

LONGEST_KEPT = 16 * 1024 * 1024
MOST_KEPT_LOGPROBS = 200_000
"""Of an answer that is kept for its idempotency key: bytes, and how many log probabilities a stream
holds for it."""


@dataclass(slots=True)
class Choice:
    """One answer as far as it has come."""

    pieces: list[str] = field(default_factory=list)
    tokens: int = 0
    """Drawn for it; with the best of `best_of`, also for those that are not told."""
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(slots=True)
class Outcome:
    """What an accepted request has brought so far. Changed by the event loop only."""

    completion_pk: int
    public_id: str
    created: int
    prepared: Prepared
    choices: list[Choice]
    reservation: Reservation | None = None
    """What it holds of somebody's limits, until its end is written."""
    keeping: Keeping = field(default_factory=Keeping)
    conversation_id: str | None = None
    """Of a chat that its owner may go on with by id."""

    keeps_answer: bool = False
    """Whether its answer is kept for its idempotency key."""
    logprobs_kept: int = 0
    """Of a stream, for that."""

    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    status: Completion.Status = Completion.Status.RUNNING

    def add(self, event: Answer) -> None:
        choice = self.choices[event.index]
        match event:
            case TextDelta():
                if self.first_token_ms is None:
                    self.first_token_ms = self.elapsed_ms
                choice.pieces.append(event.text)
                choice.tokens += event.tokens
            case Finish():
                choice.finish_reason = event.reason
                choice.tokens = event.completion_tokens + event.discarded_tokens
                choice.cached_tokens = event.cached_tokens

    async def collect(self, events: Sequence[Answer]) -> None:
        """What an answer needs besides that goes out whole. (A stream keeps none, unless it is kept
        for its key: of a long answer these are hundreds of megabytes.)"""
        for event in events:
            choice = self.choices[event.index]
            match event:
                case PromptLogprobs():
                    choice.prompt_logprobs = event.logprobs
                case TextDelta():
                    choice.logprobs += event.logprobs

    async def collect_for_key(self, events: Sequence[Answer]) -> None:
        """The same of a stream, if its answer is kept and has not too many log probabilities."""
        if not self.keeps_answer:
            return
        await self.collect(events)
        told = (one for e in events if not isinstance(e, Finish) for one in e.logprobs)
        self.logprobs_kept += sum(1 + len(one.top) for one in told)
        if self.logprobs_kept > MOST_KEPT_LOGPROBS:
            self.keeps_answer = False
            for choice in self.choices:
                choice.logprobs, choice.prompt_logprobs = [], ()

    def kept(self, whole: Callable[[], Any]) -> str:
        """The answer, which `whole` makes, as it is kept for its idempotency key; empty: it is
        not."""
        if not self.keeps_answer:
            return ""
        answer = sse.encode_json(whole())
        return answer.decode() if len(answer) <= LONGEST_KEPT else ""

    @property
    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts, each counted once, that were not computed for any choice."""
        work = self.prepared.work
        n = work.n if isinstance(work, GenerateRequest) else 1
        firsts = range(0, len(self.choices), n)
        return sum(min(c.cached_tokens for c in self.choices[i : i + n]) for i in firsts)

    @property
    def partial(self) -> tuple[tuple[str, ...], int]:
        """The texts and the token count so far, as the flusher writes them."""
        return tuple(choice.text for choice in self.choices), self.completion_tokens

    def end(self, status: Completion.Status, error: str = "", answer: str = "") -> CompletionEnd:
        return CompletionEnd(
            status=status,
            choices=tuple(
                ChoiceEnd(index, choice.text, choice.finish_reason)
                for index, choice in enumerate(self.choices)
            ),
            prompt_tokens=self.prepared.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            first_token_ms=self.first_token_ms,
            duration_ms=self.elapsed_ms,
            error=error,
            answer=answer,
            ended_at=timezone.now(),
        )
