"""Writes of the history. Plain synchronous functions, each a transaction of its own; none may be
called from an event loop's thread. Database errors (django.db.Error) reach the caller.

The life of a completion: `completion_start` commits it as running, `completions_flush` keeps what
it has said so far, `completion_finish` gives it its end, or `processes_sweep` if its process died.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.db.models import BooleanField, Exists, ExpressionWrapper, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from conversations import folding, lockfile, rows, tree
from conversations.idempotency import KeyTaken, KeyUse, key_take
from conversations.jsontext import JSONValue
from conversations.models import (
    Completion,
    CompletionContent,
    Conversation,
    IdempotencyKey,
    ServerProcess,
)
from conversations.paths import Leaf
from conversations.said import NewMessage
from conversations.tree import ChoiceEnd
from conversations.writing import write_transaction

__all__ = [
    "ChoiceEnd",
    "CompletionEnd",
    "KeyTaken",
    "KeyUse",
    "NewCompletion",
    "NewMessage",
    "Started",
    "completion_finish",
    "completion_start",
    "completions_flush",
    "process_beat",
    "process_register",
    "process_stop",
    "processes_sweep",
]

logger = logging.getLogger(__name__)

HEARTBEAT_DEAD_AFTER_S = 4.0
ERROR_LENGTH = 500
INTERRUPTED_ERROR = "The server process that was answering ended before the answer did."


@dataclass(frozen=True, slots=True)
class NewCompletion:
    """A request that was accepted. Chats bring `messages` (at least one), the others `prompt`."""

    public_id: str
    kind: str
    user_id: int
    api_key_id: int | None
    process_id: int | None
    model: str
    parameters: dict[str, JSONValue]
    request_id: str
    streamed: bool
    prompt_tokens: int
    messages: tuple[NewMessage, ...] | None = None
    prompt: JSONValue = None
    match_history: bool = True
    """False for anonymous callers: strangers must not continue each other's conversations."""

    below: Leaf | None = None
    """The end of the conversation that it continues by id; `messages` are what is new then."""

    metadata: dict[str, str] = field(default_factory=dict)
    is_stored: bool = True
    keeps_text: bool = True
    """False: nothing of what is said is ever written, neither now nor at its end."""

    idempotency: KeyUse | None = None
    """The key by which its client may send it again."""


@dataclass(frozen=True, slots=True)
class Started:
    """A request that is committed. `conversation_id`: its public id; None if it has none."""

    pk: int
    created_at: datetime
    conversation_id: str | None


@dataclass(frozen=True, slots=True)
class CompletionEnd:
    """How a request ended. `choices` hold what was said, be it a part; () for embeddings.

    Times are milliseconds since the request was accepted. `error`: a sentence for its owner.
    `cached_tokens`: those of the prompt that were not computed again.
    """

    status: Completion.Status
    choices: tuple[ChoiceEnd, ...]
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: int | None
    duration_ms: int | None
    error: str = ""
    cached_tokens: int = 0
    answer: str = ""
    """As JSON, to be sent again for its idempotency key; empty: it has none, or none is kept."""


def completion_start(new: NewCompletion) -> Started:
    """Commits the request as running, with everything it says, if its text is to be kept.

    A chat's messages go into the tree of the conversation that they continue or begin.
    Raises ValueError for a chat without messages; ConversationChanged if the end of a conversation
    that it continues by id is not there any more; KeyTaken if its idempotency key is in use.
    """
    if new.kind == Completion.Kind.CHAT and not new.messages:
        raise ValueError("a chat completion needs at least one message")
    now = timezone.now()
    with write_transaction():
        place = None
        if new.messages and new.keeps_text:
            place = tree.place_input(
                user_id=new.user_id,
                api_key_id=new.api_key_id,
                messages=new.messages,
                match_history=new.match_history,
                now=now,
                below=new.below,
            )
        completion_pk = rows.insert(
            Completion(
                public_id=new.public_id,
                kind=new.kind,
                user_id=new.user_id,
                api_key_id=new.api_key_id,
                process_id=new.process_id,
                conversation_id=place.conversation_pk if place else None,
                head_id=place.head_pk if place else None,
                model=new.model,
                streamed=new.streamed,
                prompt_tokens=new.prompt_tokens,
                metadata=new.metadata,
                is_stored=new.is_stored,
                erased_at=None if new.keeps_text else now,
                request_id=new.request_id,
                created_at=now,
            )
        )
        rows.insert(
            CompletionContent(
                completion_id=completion_pk,
                parameters=new.parameters,
                prompt=new.prompt if new.keeps_text else None,
            )
        )
        if new.idempotency is not None:
            key_take(new.user_id, new.idempotency, completion_pk, now)
    return Started(completion_pk, now, place.conversation_id if place else None)


def completions_flush(partials: Mapping[int, tuple[tuple[str, ...], int]]) -> None:
    """Keeps what running requests have said so far: {primary key: (text of each choice, tokens)}.

    One transaction for all of them. Those that are no longer running are left as they are; of those
    whose text is not to be kept, only the tokens are.
    """
    if not partials:
        return
    with write_transaction():
        running = (
            Completion.objects.select_for_update(no_key=True)
            .filter(pk__in=partials, status=Completion.Status.RUNNING)
            .order_by("pk")  # One order for all who lock several.
            .values_list("pk", "erased_at")
        )
        outputs, tokens_so_far = {}, {}
        for pk, erased_at in running:
            texts, tokens_so_far[pk] = partials[pk]
            if erased_at is not None:
                continue
            outputs[pk] = _output(tuple(ChoiceEnd(i, text, None) for i, text in enumerate(texts)))
        rows.update_each(CompletionContent, "output", outputs)
        rows.update_each(Completion, "completion_tokens", tokens_so_far)


def completion_finish(completion_pk: int, end: CompletionEnd) -> None:
    """Gives a request its end. A chat's answers, in part too, become messages below its head.

    May be called again, and after a sweep has taken the process for dead: the later end is the true
    one, it replaces texts and status and never adds a message for the same choice. Of a request
    that was erased meanwhile no text is kept.
    Raises Completion.DoesNotExist.
    """
    with write_transaction():
        completion = _lock(completion_pk)
        if completion is None:
            raise Completion.DoesNotExist
        _end(completion, end)
        if completion.status != Completion.Status.RUNNING:
            folding.hour_refold(completion.pk)


@dataclass(frozen=True, slots=True)
class _Locked:
    """A completion that nobody else ends before the transaction does."""

    pk: int
    status: str
    conversation_pk: int | None
    head_pk: int | None
    is_erased: bool


def _lock(completion_pk: int) -> _Locked | None:
    row = rows.read_locked(Completion, completion_pk, "status", "conversation", "head", "erased_at")
    if row is None:
        return None
    status, conversation_pk, head_pk, erased_at = row
    return _Locked(completion_pk, status, conversation_pk, head_pk, erased_at is not None)


def _end(completion: _Locked, end: CompletionEnd) -> None:
    now = timezone.now()
    rows.update(
        Completion,
        completion.pk,
        status=end.status,
        finish_reason=(end.choices[0].finish_reason or "") if end.choices else "",
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        cached_tokens=end.cached_tokens,
        first_token_ms=end.first_token_ms,
        duration_ms=end.duration_ms,
        error="" if completion.is_erased else end.error[:ERROR_LENGTH],
        finished_at=now,
    )
    if completion.is_erased:
        return
    output = _output(end.choices)
    if completion.head_pk is not None:
        tree.put_answers(
            completion.pk,
            completion.head_pk,
            end.choices,
            now,
            is_whole=end.status == Completion.Status.COMPLETED,
            ended_before=completion.status != Completion.Status.RUNNING,
        )
        output = []
    rows.update(CompletionContent, completion.pk, output=output)
    if end.answer:
        IdempotencyKey.objects.filter(completion=completion.pk).update(answer=end.answer)
    if completion.conversation_pk is not None:
        # What was reviewed has gone on: it is to be looked at again.
        rows.update(Conversation, completion.conversation_pk, updated_at=now, reviewed_at=None)


def _output(choices: tuple[ChoiceEnd, ...]) -> list[JSONValue]:
    """The stored shape of an output, running or done: one {"text", "finish_reason"} per choice."""
    return [
        {"text": choice.text, "finish_reason": choice.finish_reason}
        for choice in sorted(choices, key=lambda choice: choice.index)
    ]


# ---- server processes ----------------------------------------------------------------------------


def process_register(*, uuid: UUID, host: str, pid: int, lock_path: str) -> int:
    """Makes the row of a process that holds its lock already; returns its primary key."""
    process = ServerProcess(uuid=uuid, host=host, pid=pid, lock_path=lock_path)
    process.started_at = process.heartbeat_at = Now()
    process.save(force_insert=True)
    return process.pk


def process_beat(process_pk: int) -> None:
    """Says that the process lives, by the database's clock; one that was taken for dead is back."""
    ServerProcess.objects.filter(pk=process_pk).update(heartbeat_at=Now(), stopped_at=None)


def process_stop(process_pk: int) -> None:
    """Says that the process ends. What it left running, if anything, is swept 4 s later."""
    ServerProcess.objects.filter(pk=process_pk).update(heartbeat_at=Now(), stopped_at=Now())


def processes_sweep() -> int:
    """Ends as `interrupted` what dead processes left running; returns how many requests that were.

    A process is dead if its lock is free; where the lock cannot be asked (another host, another
    boot, no file), if its heartbeat is over 4 s old by the database's clock. What a living process
    runs is never touched. Several may sweep at once: each request is ended by one of them.
    """
    # A stopped process is asked too while it has requests running: it may have lost the database
    # at its end, or be one that was taken for dead and has not beaten since.
    left_running = Completion.objects.filter(
        process=OuterRef("pk"), status=Completion.Status.RUNNING
    )
    stale = Q(heartbeat_at__lt=Now() - timedelta(seconds=HEARTBEAT_DEAD_AFTER_S))
    suspects = ServerProcess.objects.filter(
        Q(stopped_at__isnull=True) | Exists(left_running)
    ).annotate(is_stale=ExpressionWrapper(stale, output_field=BooleanField()))
    swept = 0
    for process in suspects:
        held = lockfile.is_held(process.lock_path) if process.host == lockfile.this_host() else None
        if process.is_stale if held is None else not held:
            swept += _bury(process, remove_lock=held is False)
    return swept


def _bury(process: ServerProcess, *, remove_lock: bool) -> int:
    """Ends the requests of a dead process, each in a transaction of its own, then marks it."""
    running = Completion.objects.filter(process=process, status=Completion.Status.RUNNING)
    interrupted = sum(_interrupt(pk) for pk in running.order_by("pk").values_list("pk", flat=True))
    # A heartbeat since it was judged means that it lives after all.
    dead = ServerProcess.objects.filter(
        pk=process.pk, stopped_at=None, heartbeat_at=process.heartbeat_at
    )
    was_marked = dead.update(stopped_at=Now())
    if remove_lock:
        Path(process.lock_path).unlink(missing_ok=True)
    if was_marked or interrupted:
        logger.warning("%s is dead; %d of its requests were interrupted", process, interrupted)
    return interrupted


def _interrupt(completion_pk: int) -> bool:
    """False if the request came to an end of its own, or by another sweeper, in the meantime."""
    with write_transaction():
        locked = _lock(completion_pk)
        if locked is None or locked.status != Completion.Status.RUNNING:
            return False
        completion = Completion.objects.get(pk=completion_pk)
        # Read after the lock: what was flushed last. Without its text a request ends all the same.
        content = CompletionContent.objects.filter(completion=completion).first()
        choices = tuple(
            ChoiceEnd(index, choice["text"], choice["finish_reason"])
            for index, choice in enumerate(content.output if content else [])
        )
        _end(
            locked,
            CompletionEnd(
                status=Completion.Status.INTERRUPTED,
                choices=choices,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                cached_tokens=completion.cached_tokens,
                first_token_ms=completion.first_token_ms,
                duration_ms=None,
                error=INTERRUPTED_ERROR,
            ),
        )
    return True
