"""One request's life: admitted, run, ended. Whatever happens in between, its row tells.

Accepted means committed: `accept` writes the row as `running` before anything is generated. Done
means committed: `run_completion` and `run_embedding` return only after the row says how it ended.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from django.db import Error as DatabaseError

from accounts.limits.holders import Holder
from accounts.limits.limiter import Reservation
from conversations.ids import public_id
from conversations.models import Completion
from conversations.services import (
    ChoiceEnd,
    CompletionEnd,
    NewCompletion,
    NewMessage,
    completion_start,
)
from llmapi.backends.base import ChatRequest, CompletionRequest, Prepared, Request
from llmapi.engine.messages import (
    Answer,
    Finish,
    FinishReason,
    GenerateRequest,
    PromptLogprobs,
    TextDelta,
    TokenLogprob,
)
from llmapi.errors import ApiError, EngineLost, ServerUnavailable, as_api_error
from llmapi.executors import admission, database
from llmapi.flusher import flusher
from llmapi.keeping import Keeping, past_of
from llmapi.metrics import Pieces, end_write_s
from llmapi.reservations import finish_and_settle, give_back, reserve
from llmapi.running import running
from llmapi.services import models

logger = logging.getLogger(__name__)

Status = Completion.Status
ID_PREFIXES = {
    Completion.Kind.CHAT: "chatcmpl-",
    Completion.Kind.COMPLETION: "cmpl-",
    Completion.Kind.EMBEDDING: "embd-",
}
FINISH_RETRIES_S = (0.05, 0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sent a request, and what the request is called in headers and logs."""

    user_id: int
    api_key_id: int | None
    request_id: str
    holders: tuple[Holder, ...] = ()
    """Whose limits bound the request."""

    allowed_models: tuple[str, ...] = ()
    """Ids and aliases; empty: all."""

    @property
    def is_anonymous(self) -> bool:
        return self.api_key_id is None


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

    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    status: Completion.Status = Status.RUNNING

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
        """What an answer needs besides that goes out whole. (A stream keeps none: of a long answer
        these are hundreds of megabytes.)"""
        for event in events:
            choice = self.choices[event.index]
            match event:
                case PromptLogprobs():
                    choice.prompt_logprobs = event.logprobs
                case TextDelta():
                    choice.logprobs += event.logprobs

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

    def end(self, status: Completion.Status, error: str = "") -> CompletionEnd:
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
        )


def accept(
    asker: Asker,
    request: Request,
    extra_parameters: dict[str, Any],
    streamed: bool,
    keeping: Keeping | None = None,
) -> Outcome:
    """Read what the request continues, prepare, then commit the row as `running`. Blocks.

    Raises ApiError: the model is unknown, not ready or not for this key, the context is too long,
    the template refuses, there is no such conversation, a limit is reached, or the database does
    not take the row; then nothing was accepted.
    """
    keeping = keeping or Keeping()
    kind = kind_of(request)
    completion_id = public_id(ID_PREFIXES[kind])
    if request.model is not None:
        models.check_allowed(request.model, asker.allowed_models)
    said, past = messages_of(request), None
    if keeping.conversation is not None and isinstance(request, ChatRequest):
        past = past_of(keeping.conversation, asker.user_id, is_anonymous=asker.is_anonymous)
        request = past.before(request)
    # Fairness and cache salting group by user, over any number of keys.
    prepared = models.prepare(request, completion_id, f"user-{asker.user_id}")
    if request.model is None:
        models.check_allowed(prepared.model, asker.allowed_models)
    new = NewCompletion(
        public_id=completion_id,
        kind=kind,
        user_id=asker.user_id,
        api_key_id=asker.api_key_id,
        process_id=running.process_id,
        model=prepared.model,
        parameters=keeping.kept_parameters({**prepared.parameters, **extra_parameters}),
        request_id=asker.request_id,
        streamed=streamed,
        prompt_tokens=prepared.prompt_tokens,
        messages=said,
        prompt=prompt_of(request),
        # What its owner is not shown begins a conversation of its own.
        match_history=keeping.is_stored and not asker.is_anonymous,
        below=past.leaf if past else None,
        metadata=keeping.kept_metadata(),
        is_stored=keeping.is_stored,
        keeps_text=keeping.keeps_text,
    )
    reservation = reserve(asker.holders, completion_id, prepared.most_tokens)
    try:
        started = completion_start(new)
    except BaseException as error:
        give_back(reservation)
        if not isinstance(error, DatabaseError):
            raise
        logger.error("A request could not be written (%s)", asker.request_id, exc_info=error)
        raise ServerUnavailable(
            "The database does not answer, so the request was not accepted.",
            code="database_unavailable",
        ) from error
    return Outcome(
        completion_pk=started.pk,
        public_id=completion_id,
        created=int(started.created_at.timestamp()),
        prepared=prepared,
        choices=[Choice() for _ in range(prepared.choices)],
        reservation=reservation,
        keeping=keeping,
        conversation_id=started.conversation_id if new.match_history else None,
    )


async def admit(accepting: Callable[[], Outcome], lane: str) -> Outcome:
    """What `accepting` accepts, on a thread for admission, when it is the lane's turn. If the
    caller is cancelled meanwhile, the row that is written all the same gets its end."""
    admitting = running.start_write(admission.run_in_turn(lane, accepting))
    try:
        return await asyncio.shield(admitting)
    except asyncio.CancelledError:
        running.start_write(end_abandoned(admitting))
        raise


async def run_completion(
    outcome: Outcome, on_events: Callable[[Sequence[Answer]], Awaitable[None]]
) -> None:
    """Generate, hand all events to `on_events` as they come, and write the end, however it comes.

    Raises what ended it early (ApiError, CancelledError) after that was written.
    """
    end = outcome.end(Status.FAILED)
    flusher.add(outcome.completion_pk, outcome)
    pieces = Pieces()
    try:
        async with aclosing(models.stream(outcome.prepared)) as stream:
            async for events in stream:
                for event in events:
                    outcome.add(event)
                pieces.come()
                await on_events(events)
        end = outcome.end(Status.COMPLETED)
    except BaseException as error:
        end = outcome.end(status_after(error), sentence_about(error))
        raise
    finally:
        flusher.remove(outcome.completion_pk)
        await finish(outcome, end)


async def run_embedding(outcome: Outcome) -> list[bytes]:
    """The vectors of an admitted embedding request; its end is written as for `run_completion`."""
    end = outcome.end(Status.FAILED)
    try:
        vectors = await models.embed(outcome.prepared)
        end = outcome.end(Status.COMPLETED)
        return vectors
    except BaseException as error:
        end = outcome.end(status_after(error), sentence_about(error))
        raise
    finally:
        await finish(outcome, end)


async def finish(outcome: Outcome, end: CompletionEnd) -> None:
    """Write the end of a request; a caller that is cancelled meanwhile waits for it."""
    outcome.status = end.status
    began = time.monotonic()
    writing = running.start_write(write_end(outcome.completion_pk, end, outcome.reservation))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
    finally:
        end_write_s.observe(time.monotonic() - began)


async def write_end(
    completion_pk: int, end: CompletionEnd, reservation: Reservation | None
) -> None:
    """Write the end of a request, again if the database stumbles, and settle what it held. Raises
    ServerUnavailable."""
    for pause_s in (*FINISH_RETRIES_S, None):
        try:
            await database.run(finish_and_settle, completion_pk, end, reservation)
            return
        except DatabaseError as error:
            if pause_s is None:
                logger.critical("The end of row %d waits", completion_pk, exc_info=error)
                running.start_write(write_end_at_last(completion_pk, end))
                raise ServerUnavailable(
                    "The answer was generated but could not be saved.", code="database_unavailable"
                ) from error
            await asyncio.sleep(pause_s)


async def write_end_at_last(completion_pk: int, end: CompletionEnd) -> None:
    """Go on trying, every second, after the client was told that its answer could not be saved. If
    this process ends before the database is back, another one finds the row left `running`."""
    while True:
        await asyncio.sleep(1)
        try:
            await database.run(finish_and_settle, completion_pk, end, None)
            return
        except DatabaseError:
            continue


async def end_abandoned(admitting: "asyncio.Task[Outcome]") -> None:
    """The client left during admission: nobody else would end its row, if it got one."""
    status = status_after(asyncio.CancelledError())
    await asyncio.wait([admitting])
    if admitting.exception() is not None:
        return  # nothing was accepted, and nobody waits for the reason
    outcome = admitting.result()
    try:
        await write_end(outcome.completion_pk, outcome.end(status), outcome.reservation)
    except ServerUnavailable as error:
        logger.error("An abandoned request could not be ended: %s", error)


def status_after(error: BaseException) -> Completion.Status:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Status.INTERRUPTED if running.expired else Status.CANCELLED
    return Status.INTERRUPTED if isinstance(error, EngineLost) else Status.FAILED


def sentence_about(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "The server was shut down." if running.expired else str(error)
    return (error if isinstance(error, ApiError) else as_api_error(error)).message


def kind_of(request: Request) -> Completion.Kind:
    if isinstance(request, ChatRequest):
        return Completion.Kind.CHAT
    if isinstance(request, CompletionRequest):
        return Completion.Kind.COMPLETION
    return Completion.Kind.EMBEDDING


def messages_of(request: Request) -> tuple[NewMessage, ...] | None:
    if not isinstance(request, ChatRequest):
        return None
    return tuple(NewMessage(m.role, m.content, m.name) for m in request.messages)


def prompt_of(request: Request) -> Any:
    """The prompt or inputs as JSON: one alone as itself, several as a list."""
    if isinstance(request, ChatRequest):
        return None
    items = request.prompts if isinstance(request, CompletionRequest) else request.inputs
    as_json = [item if isinstance(item, str) else list(item) for item in items]
    return as_json[0] if len(as_json) == 1 else as_json
