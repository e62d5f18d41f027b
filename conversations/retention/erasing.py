"""What was said, taken away for good; that it was asked stays and counts as usage.

An erased completion keeps its user, key, model, counts and times, gets `erased_at`, and points to
nothing that was said. A request that is erased while it runs (`user_erase` alone does that) goes on
for its client; `completion_finish` then writes how it ended and no word of it.
Plain synchronous functions; database errors (django.db.Error) reach the caller.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.utils import timezone

from conversations.models import Completion, CompletionContent, Conversation, Message
from conversations.storage.writing import write_transaction
from conversations.tree import placing

Status = Completion.Status
# A transaction that erases holds SQLite's one write lock: tens of milliseconds for so many.
CONVERSATIONS_AT_ONCE = 50
COMPLETIONS_AT_ONCE = 500


class StillRunning(ValueError):
    """What is being answered cannot be erased; cancel it, or wait for its end."""


class _TreeGrew(Exception):
    """A request joined a conversation, or it went, while its requests were being locked."""


def completion_erase(completion_pk: int) -> None:
    """Erases one request. In a conversation, its answers and those of its inputs that nothing else
    stands on go; what a later turn repeats stays, as a part of that one. A conversation without
    messages goes too.

    One transaction; an erased one is left as it is. Raises Completion.DoesNotExist, StillRunning.
    """
    with write_transaction():
        completion = Completion.objects.select_for_update().get(pk=completion_pk)
        if completion.status == Status.RUNNING:
            raise StillRunning(f"{completion} is still running.")
        if completion.erased_at is not None:
            return
        if completion.conversation_id is not None:
            _lock_conversations(Conversation.objects.filter(pk=completion.conversation_id))
        _forget([completion.pk])
        if completion.conversation_id is not None:
            _prune_branch(completion.conversation_id, completion)


def conversation_erase(conversation_pk: int) -> None:
    """Erases a conversation and all requests of it.

    One transaction. Raises Conversation.DoesNotExist, StillRunning.
    """
    if not trees_erase(Conversation.objects.filter(pk=conversation_pk)):
        raise Conversation.DoesNotExist


def user_erase(user_pk: int) -> tuple[int, int]:
    """Erases all that a user said and was answered, running requests too; returns how many
    (conversations, completions) that were.

    A transaction for each batch. What the user sends meanwhile is new, and may stay.
    """
    conversations = completions = 0
    trees = Conversation.objects.filter(user=user_pk)
    for pks in batches(trees, CONVERSATIONS_AT_ONCE):
        completions += Completion.objects.filter(conversation__in=pks).count()
        conversations += trees_erase(trees.filter(pk__in=pks), running_too=True)
    said = Completion.objects.filter(user=user_pk, erased_at=None, conversation=None)
    for pks in batches(said, COMPLETIONS_AT_ONCE):
        completions += completions_erase(said.filter(pk__in=pks))
    return conversations, completions


def trees_erase(trees: models.QuerySet[Conversation], *, running_too: bool = False) -> int:
    """Erases conversations with their requests, in one transaction; returns how many.

    Raises StillRunning, and then erases none.
    """
    while True:
        try:
            with write_transaction():
                return _trees_erase(trees, running_too)
        except _TreeGrew:
            continue


def completions_erase(completions: models.QuerySet[Completion]) -> int:
    """Erases requests that have no conversation, in one transaction; returns how many."""
    with write_transaction():
        pks = list(
            completions.filter(conversation=None)
            .select_for_update()
            .order_by("pk")
            .values_list("pk", flat=True)
        )
        _forget(pks)
    return len(pks)


def file_rewrite() -> bool:
    """Writes SQLite's file anew and empties its write-ahead log: no trace of an erased text stays,
    nor of drafts that were overwritten long ago. Nobody can write meanwhile. False: a reader kept
    the log from being emptied. On PostgreSQL this is the operator's affair (docs/data.md).

    Not in a transaction.
    """
    if connection.vendor != "sqlite":
        return True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        is_busy, _, _ = cursor.fetchone()
    return not is_busy


# ---- trees ---------------------------------------------------------------------------------------


def _trees_erase(trees: models.QuerySet[Conversation], running_too: bool) -> int:
    # Requests before their conversation: the order in which an end locks them too.
    pks = list(trees.values_list("pk", flat=True))
    asked = Completion.objects.filter(conversation__in=pks).order_by("pk")
    statuses = dict(asked.select_for_update().values_list("pk", "status"))
    if set(_lock_conversations(trees)) != set(pks) or set(
        asked.values_list("pk", flat=True)
    ) != set(statuses):
        raise _TreeGrew
    if Status.RUNNING in statuses.values() and not running_too:
        raise StillRunning("A request of this conversation is still running.")
    _forget(list(statuses))
    _unname(Conversation, pks)
    # Before the conversation, without which Django would read them all to find out what hangs on
    # them: nothing does any more.
    messages = Message.objects.filter(conversation__in=pks)
    messages._raw_delete(messages.db)
    Conversation.objects.filter(pk__in=pks).delete()
    return len(pks)


def _prune_branch(conversation_pk: int, erased: Completion) -> None:
    """Deletes the messages of one request that nothing stands on: no other message, no request.
    `erased` as it was before: with its head."""
    messages = Message.objects.filter(conversation=conversation_pk)
    parents = dict(messages.values_list("pk", "parent_id"))
    answers = list(messages.filter(completion=erased.pk).values_list("pk", flat=True))
    heads = Completion.objects.filter(conversation=conversation_pk).values_list("head", flat=True)
    others_answers = messages.exclude(completion=None).exclude(completion=erased.pk)
    needed = {*heads, *others_answers.values_list("pk", flat=True)}
    children = dict.fromkeys(parents, 0)
    for parent_pk in parents.values():
        if parent_pk is not None:
            children[parent_pk] += 1

    gone: list[int] = []
    for leaf_pk in (*answers, erased.head_id):
        pk = leaf_pk
        while pk in parents and not children[pk] and pk not in needed:
            gone.append(pk)
            pk = parents.pop(pk)
            if pk is not None:
                children[pk] -= 1
    # Its answers that a later turn repeats were generated here all the same, but by nobody.
    messages.filter(completion=erased.pk).update(completion=None)
    if not parents:
        _unname(Conversation, [conversation_pk])
    titles = set()
    for start in range(0, len(gone), COMPLETIONS_AT_ONCE):
        leaves = Message.objects.filter(pk__in=gone[start : start + COMPLETIONS_AT_ONCE])
        titles |= {_title_of(message) for message in leaves.filter(role="user")}
        leaves._raw_delete(leaves.db)
    if not parents:
        Conversation.objects.filter(pk=conversation_pk).delete()
    else:
        _retitle(conversation_pk, titles - {""})


def _retitle(conversation_pk: int, gone: set[str]) -> None:
    """A title that repeats the words of a message that is gone becomes that of the first one left.
    One that its owner gave stays."""
    messages = Message.objects.filter(conversation=conversation_pk, choice_index=None)
    first = messages.filter(role="user").order_by("depth", "pk").first()
    kept = Conversation.objects.filter(pk=conversation_pk, title__in=gone)
    kept.update(title=_title_of(first) if first else "")


def _title_of(message: Message) -> str:
    return placing.title_of([placing.NewMessage(message.role, message.content)])


# ---- rows ----------------------------------------------------------------------------------------


def _forget(completion_pks: list[int]) -> None:
    """Takes from these requests, which are locked, all that was said and points to it."""
    for start in range(0, len(completion_pks), COMPLETIONS_AT_ONCE):
        pks = completion_pks[start : start + COMPLETIONS_AT_ONCE]
        CompletionContent.objects.filter(pk__in=pks).delete()
        Completion.objects.filter(pk__in=pks).update(
            conversation=None,
            head=None,
            metadata={},
            error="",
            erased_at=timezone.now(),
        )


def _unname(model: type[models.Model], pks: Iterable[int]) -> None:
    """The admin's log keeps what it calls its objects: of conversations, in older databases, the
    title."""
    kind = ContentType.objects.get_for_model(model)
    names = LogEntry.objects.filter(content_type=kind, object_id__in=[str(pk) for pk in pks])
    names.update(object_repr="(erased)")


def _lock_conversations(conversations: models.QuerySet[Conversation]) -> list[int]:
    """Those that there are; nobody places messages in them before the transaction ends."""
    locked = conversations.order_by("pk").select_for_update()
    return list(locked.values_list("pk", flat=True))


def batches(rows: models.QuerySet[Any], size: int) -> Iterator[list[int]]:
    """Primary keys of rows that disappear from the queryset while it is walked, or do not."""
    last_pk = 0
    while True:
        pks = list(rows.filter(pk__gt=last_pk).order_by("pk").values_list("pk", flat=True)[:size])
        if not pks:
            return
        yield pks
        last_pk = pks[-1]
