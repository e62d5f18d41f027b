"""One request's life: admitted, run, ended. Whatever happens in between, its row tells.

Accepted means committed: `accept` writes the row as `running` before anything is generated. Done
means committed: `run_completion` and `run_embedding` return only after the row says how it ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import Error as DatabaseError

from accounts.limits.holders import Holder
from conversations.errors import KeyInFlight
from conversations.idempotency import Answered, KeyTaken, KeyUse, answered_before
from conversations.ids import public_id
from conversations.models import Completion
from conversations.services import NewCompletion, NewMessage, completion_start
from conversations.storage.writing import CommitInDoubt
from llmapi.backends.base import ChatRequest, CompletionRequest, Request
from llmapi.endings import end_abandoned, end_if_there, finish, sentence_about, status_after
from llmapi.engine.messages import Answer
from llmapi.errors import ServerUnavailable
from llmapi.executors import admission
from llmapi.flusher import flusher
from llmapi.keeping import Keeping, past_of
from llmapi.metrics import Pieces
from llmapi.outcomes import Choice, Outcome
from llmapi.replayer import NOT_ACCEPTED, replayer
from llmapi.reservations import give_back, reserve
from llmapi.running import running
from llmapi.services import models

logger = logging.getLogger(__name__)

Status = Completion.Status
ID_PREFIXES = {
    Completion.Kind.CHAT: "chatcmpl-",
    Completion.Kind.COMPLETION: "cmpl-",
    Completion.Kind.EMBEDDING: "embd-",
}


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


def accept(
    asker: Asker,
    request: Request,
    extra_parameters: dict[str, Any],
    streamed: bool,
    keeping: Keeping | None = None,
    key: KeyUse | None = None,
) -> Outcome | Answered:
    """Read what the request continues, prepare, then commit the row as `running`. Blocks. Of one
    that was answered before, by its idempotency key, there is only that answer.

    Raises ApiError: the model is unknown, not ready or not for this key, the context is too long,
    the template refuses, there is no such conversation, a limit is reached, the idempotency key
    stands for something else, or the database does not take the row; then nothing was accepted.
    """
    keeping = keeping or Keeping()
    kind = kind_of(request)
    completion_id = public_id(ID_PREFIXES[kind])
    if request.model is not None:
        models.check_allowed(request.model, asker.allowed_models)
    if key is not None and (answered := answered_to(asker, request, key)):
        return answered
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
        idempotency=key,
    )
    reservation = reserve(asker.holders, completion_id, prepared.most_tokens)
    try:
        started = completion_start(new)
    except BaseException as error:
        give_back(reservation)
        if isinstance(error, KeyTaken) and key is not None:
            answered = answered_to(asker, request, key)
            if answered is None:  # and free again: whoever took it has failed already
                raise KeyInFlight(running_s=0) from error
            return answered
        if not isinstance(error, DatabaseError):
            raise
        logger.error("A request could not be written (%s)", asker.request_id, exc_info=error)
        if isinstance(error, CommitInDoubt):
            end_if_there(new, prepared.choices)
        raise ServerUnavailable(NOT_ACCEPTED, code="database_unavailable") from error
    return Outcome(
        completion_pk=started.pk,
        public_id=completion_id,
        created=int(started.created_at.timestamp()),
        prepared=prepared,
        choices=[Choice() for _ in range(prepared.choices)],
        reservation=reservation,
        keeping=keeping,
        conversation_id=started.conversation_id if new.match_history else None,
        keeps_answer=key is not None and keeping.keeps_text,
    )


def answered_to(asker: Asker, request: Request, key: KeyUse) -> Answered | None:
    """The answer that the key stands for; None: it is free. Raises ApiError."""
    answered = answered_before(asker.user_id, key)
    if answered is not None and request.model is None:
        models.check_allowed(answered.model, asker.allowed_models)
    return answered


async def admit(accepting: Callable[[], Outcome | Answered], lane: str) -> Outcome | Answered:
    """What `accepting` accepts, on a thread for admission, when it is the lane's turn. If the
    caller is cancelled meanwhile, the row that is written all the same gets its end."""
    admitting = running.start_write(admission.run_in_turn(lane, accepting))
    admitting.add_done_callback(lambda _: replayer.start_if_needed())
    try:
        return await asyncio.shield(admitting)
    except asyncio.CancelledError:
        running.start_write(end_abandoned(admitting))
        raise


async def run_completion(
    outcome: Outcome,
    on_events: Callable[[Sequence[Answer]], Awaitable[None]],
    whole: Callable[[], Any],
) -> None:
    """Generate, hand all events to `on_events` as they come, and write the end, however it comes.
    `whole` makes the answer that is kept, if it is to be kept, of what has come.

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
        end = outcome.end(Status.COMPLETED, answer=outcome.kept(whole))
    except BaseException as error:
        end = outcome.end(status_after(error), sentence_about(error))
        raise
    finally:
        flusher.remove(outcome.completion_pk)
        await finish(outcome, end)


async def run_embedding(outcome: Outcome, whole: Callable[[list[bytes]], Any]) -> list[bytes]:
    """The vectors of an admitted embedding request; its end is written as for `run_completion`."""
    end = outcome.end(Status.FAILED)
    try:
        vectors = await models.embed(outcome.prepared)
        end = outcome.end(Status.COMPLETED, answer=outcome.kept(partial(whole, vectors)))
        return vectors
    except BaseException as error:
        end = outcome.end(status_after(error), sentence_about(error))
        raise
    finally:
        await finish(outcome, end)


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
