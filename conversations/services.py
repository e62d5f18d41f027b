"""Writes of the history. Plain synchronous functions, each a transaction of its own; none may be
called from an event loop's thread. Database errors (django.db.Error) reach the caller.

The life of a completion: `completion_start` commits it as running, `completions_flush` keeps what
it has said so far, `completion_finish` gives it its end, or `completion_interrupt` if its process
died.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.utils import timezone

from conversations.ends import CompletionEnd, end_put, end_replace, is_ended_so, lock, output_of
from conversations.idempotency import KeyTaken, KeyUse, key_take
from conversations.models import Completion, CompletionContent
from conversations.storage import rows
from conversations.storage.jsontext import JSONValue
from conversations.storage.writing import write_transaction
from conversations.tree.answers import ChoiceEnd
from conversations.tree.paths import Leaf
from conversations.tree.placing import place_input
from conversations.tree.said import NewMessage

__all__ = [
    "ChoiceEnd",
    "CompletionEnd",
    "KeyTaken",
    "KeyUse",
    "NewCompletion",
    "NewMessage",
    "Started",
    "completion_finish",
    "completion_interrupt",
    "completion_start",
    "completions_flush",
]

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
            place = place_input(
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
            outputs[pk] = output_of(tuple(ChoiceEnd(i, text, None) for i, text in enumerate(texts)))
        rows.update_each(CompletionContent, "output", outputs)
        rows.update_each(Completion, "completion_tokens", tokens_so_far)


def completion_finish(completion_pk: int, end: CompletionEnd) -> None:
    """Gives a request its end. A chat's answers, in part too, become messages below its head.

    May be called again, and after a sweep has taken the process for dead: the later end is the true
    one, it replaces texts and status and never adds a message for the same choice; the same end
    changes nothing. Of a request that was erased meanwhile no text is kept, and an answer that was
    deleted does not come back.
    Raises Completion.DoesNotExist.
    """
    with write_transaction():
        completion = lock(completion_pk)
        if completion is None:
            raise Completion.DoesNotExist
        if completion.is_running:
            end_put(completion, end)
            return
        if is_ended_so(completion, end):
            return
    end_replace(completion, end)


def completion_interrupt(completion_pk: int) -> bool:
    """Ends a request whose server process died, with what was flushed of it. False if it came to an
    end of its own, or by another sweeper, in the meantime."""
    with write_transaction():
        locked = lock(completion_pk)
        if locked is None or not locked.is_running:
            return False
        completion = Completion.objects.get(pk=completion_pk)
        # Read after the lock: what was flushed last. Without its text a request ends all the same.
        content = CompletionContent.objects.filter(completion=completion).first()
        choices = tuple(
            ChoiceEnd(index, choice["text"], choice["finish_reason"])
            for index, choice in enumerate(content.output if content else [])
        )
        end_put(
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
