"""How the end of a completion is written. Called by `services`."""

from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from conversations.models import (
    Completion,
    CompletionContent,
    Conversation,
    IdempotencyKey,
    Message,
)
from conversations.storage import rows
from conversations.storage.jsontext import JSONValue
from conversations.tree.answers import ChoiceEnd, answers_put, answers_replace
from conversations.tree.locking import in_whole_trees
from conversations.tree.paths import Leaf
from conversations.usage import folding

ERROR_LENGTH = 500


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
    ended_at: datetime | None = None
    """None: now. By it, an end is known again that is there already."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A completion that nobody else ends before the transaction does."""

    pk: int
    status: str
    user_id: int
    conversation_pk: int | None
    head_pk: int | None
    was_answered: bool
    erased_at: datetime | None

    @property
    def is_running(self) -> bool:
        return self.status == Completion.Status.RUNNING

    @property
    def is_erased(self) -> bool:
        return self.erased_at is not None


def lock(completion_pk: int) -> Locked | None:
    names = ("status", "user", "conversation", "head", "was_answered", "erased_at")
    row = rows.read_locked(Completion, completion_pk, *names)
    return None if row is None else Locked(completion_pk, *row)


def is_ended_so(completion: Locked, end: CompletionEnd) -> bool:
    """Whether this very end is written already."""
    same = Completion.objects.filter(
        pk=completion.pk, status=end.status, finished_at=end.ended_at, finished_at__isnull=False
    )
    return same.exists()


def end_put(completion: Locked, end: CompletionEnd) -> None:
    """Writes how it ended, in the transaction that has it locked."""
    now = timezone.now()
    if completion.conversation_pk is not None:
        # First, for it locks the conversation. What was reviewed has gone on: it is to be looked at
        # again.
        rows.update(Conversation, completion.conversation_pk, updated_at=now, reviewed_at=None)
    is_deleted = _is_deleted(completion)
    was_answered = _put_answers(completion, end, now)
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
        finished_at=end.ended_at or now,
        was_answered=was_answered,
    )
    if not completion.is_erased:
        is_in_tree = completion.conversation_pk is not None
        output = [] if is_in_tree else output_of(end.choices)
        rows.update(CompletionContent, completion.pk, output=output)
        if end.answer and not is_deleted:
            IdempotencyKey.objects.filter(completion=completion.pk).update(answer=end.answer)


def end_replace(completion: Locked, end: CompletionEnd) -> None:
    """Writes how it ended after all, in a transaction of its own. Others may have gone on below
    its answer meanwhile: all of them hold still."""

    def replace(*_: object) -> None:
        locked = lock(completion.pk)
        if locked is not None:  # else pruned a moment ago
            end_put(locked, end)
            folding.hour_refold(locked.pk)

    trees = Conversation.objects.none()
    if completion.conversation_pk is not None:
        trees = Conversation.objects.filter(pk=completion.conversation_pk)
    in_whole_trees(trees, replace)


def _is_deleted(completion: Locked) -> bool:
    """Whether its answer was taken out of the conversation again."""
    answers = Message.objects.filter(completion=completion.pk)
    return completion.was_answered and not completion.is_erased and not answers.exists()


def _put_answers(completion: Locked, end: CompletionEnd, now: datetime) -> bool:
    """What was said, into the tree of its conversation, if it has one; whether that was anything,
    now or before."""
    if completion.conversation_pk is None:
        return completion.was_answered
    if completion.head_pk is None:  # It was the first message of all, and is deleted.
        above = Leaf.root(completion.conversation_pk, completion.user_id)
    else:
        above = Leaf.at(completion.head_pk)
    is_whole = end.status == Completion.Status.COMPLETED
    if not completion.was_answered:
        return answers_put(completion.pk, above, end.choices, now, is_whole=is_whole)
    answers_replace(completion.pk, above, end.choices, now, is_whole=is_whole)
    return True


def output_of(choices: tuple[ChoiceEnd, ...]) -> list[JSONValue]:
    """The stored shape of an output, running or done: one {"text", "finish_reason"} per choice."""
    return [
        {"text": choice.text, "finish_reason": choice.finish_reason}
        for choice in sorted(choices, key=lambda choice: choice.index)
    ]
