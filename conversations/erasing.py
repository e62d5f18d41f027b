"""What was said, taken away for good; that it was asked stays and counts as usage.

An erased completion keeps its user, key, model, counts and times, gets `erased_at`, and points to
nothing that was said. A request that is erased while it runs (`user_erase` alone does that) goes on
for its client; `completion_finish` then writes how it ended and no word of it.
Plain synchronous functions; database errors (django.db.Error) reach the caller.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.utils import timezone

from conversations import tree
from conversations.models import Completion, CompletionContent, Conversation, Message
from conversations.writing import write_transaction

Status = Completion.Status
# A transaction that erases holds SQLite's one write lock: tens of milliseconds for so many.
CONVERSATIONS_AT_ONCE = 50
COMPLETIONS_AT_ONCE = 500


class StillRunning(ValueError):
    """What is being answered cannot be erased; cancel it, or wait for its end."""


class _TreeGrew(Exception):
    """A request joined a conversation while its requests were being locked."""


def completion_erase(completion_pk: int) -> None:
    """Erases one request. In a conversation, its answers and those of its inputs that nothing else
    stands on go; what a later turn repeats stays, as a part of that one. A conversation without
    messages goes too.

    One transaction; an erased one is left as it is. Raises Completion.DoesNotExist, StillRunning.
    """
    with _erasing():
        completion = Completion.objects.select_for_update().get(pk=completion_pk)
        if completion.status == Status.RUNNING:
            raise StillRunning(f"{completion} is still running.")
        if completion.erased_at is not None:
            return
        if completion.conversation_id is not None:
            _lock_conversations([completion.conversation_id])
        _forget([completion.pk])
        if completion.conversation_id is not None:
            _prune_branch(completion.conversation_id, completion)


def conversation_erase(conversation_pk: int) -> None:
    """Erases a conversation and all requests of it.

    One transaction. Raises Conversation.DoesNotExist, StillRunning.
    """
    if not _trees_erase([conversation_pk]):
        raise Conversation.DoesNotExist


def user_erase(user_pk: int) -> tuple[int, int]:
    """Erases all that a user said and was answered, running requests too; returns how many
    (conversations, completions) that were.

    A transaction for each batch. What the user sends meanwhile is new, and may stay.
    """
    conversations = completions = 0
    trees = Conversation.objects.filter(user=user_pk)
    for pks in _batches(trees, CONVERSATIONS_AT_ONCE):
        completions += Completion.objects.filter(conversation__in=pks).count()
        conversations += _trees_erase(pks, running_too=True)
    said = Completion.objects.filter(user=user_pk, erased_at=None, conversation=None)
    for pks in _batches(said, COMPLETIONS_AT_ONCE):
        completions += completions_erase(said.filter(pk__in=pks))
    return conversations, completions


def completions_erase(completions: models.QuerySet[Completion]) -> int:
    """Erases requests that have no conversation, in one transaction; returns how many."""
    with _erasing():
        pks = list(
            completions.filter(conversation=None)
            .select_for_update()
            .order_by("pk")
            .values_list("pk", flat=True)
        )
        _forget(pks)
    return len(pks)


# ---- trees ---------------------------------------------------------------------------------------


def _trees_erase(conversation_pks: Sequence[int], *, running_too: bool = False) -> int:
    """Erases these conversations in one transaction; returns how many of them there were."""
    while True:
        try:
            with _erasing():
                return _trees_erase_once(conversation_pks, running_too)
        except _TreeGrew:
            continue


def _trees_erase_once(conversation_pks: Sequence[int], running_too: bool) -> int:
    # Requests before their conversation: the order in which an end locks them too.
    asked = Completion.objects.filter(conversation__in=conversation_pks).order_by("pk")
    statuses = dict(asked.select_for_update().values_list("pk", "status"))
    there = _lock_conversations(conversation_pks)
    if set(asked.values_list("pk", flat=True)) - set(statuses):
        raise _TreeGrew
    if Status.RUNNING in statuses.values() and not running_too:
        raise StillRunning("A request of this conversation is still running.")
    _forget(list(statuses))
    _unname(Conversation, there)
    # Before the conversation, without which Django would read them all to find out what hangs on
    # them: nothing does any more.
    messages = Message.objects.filter(conversation__in=there)
    messages._raw_delete(messages.db)
    Conversation.objects.filter(pk__in=there).delete()
    return len(there)


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
    for start in range(0, len(gone), COMPLETIONS_AT_ONCE):
        leaves = Message.objects.filter(pk__in=gone[start : start + COMPLETIONS_AT_ONCE])
        leaves._raw_delete(leaves.db)
    if not parents:
        Conversation.objects.filter(pk=conversation_pk).delete()
    elif gone:
        _retitle(conversation_pk)


def _retitle(conversation_pk: int) -> None:
    """A title repeats the first words of a chat, which may be gone."""
    messages = Message.objects.filter(conversation=conversation_pk, choice_index=None)
    first = messages.filter(role="user").order_by("depth", "pk").first()
    title = tree.title_of([tree.NewMessage(first.role, first.content)]) if first else ""
    kept = Conversation.objects.filter(pk=conversation_pk)
    kept.exclude(title="").exclude(title=title).update(title=title)


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
    """The admin's log keeps what it calls its objects: of a conversation, the title."""
    kind = ContentType.objects.get_for_model(model)
    names = LogEntry.objects.filter(content_type=kind, object_id__in=[str(pk) for pk in pks])
    names.update(object_repr="(erased)")


def _lock_conversations(pks: Sequence[int]) -> list[int]:
    """Those that there are; nobody places messages in them before the transaction ends."""
    conversations = Conversation.objects.filter(pk__in=pks).order_by("pk")
    return list(conversations.select_for_update().values_list("pk", flat=True))


def _batches(rows: models.QuerySet[models.Model], size: int) -> Iterator[list[int]]:
    """Primary keys of rows that disappear from the queryset while it is walked, or do not."""
    last_pk = 0
    while True:
        pks = list(rows.filter(pk__gt=last_pk).order_by("pk").values_list("pk", flat=True)[:size])
        if not pks:
            return
        yield pks
        last_pk = pks[-1]


@contextmanager
def _erasing() -> Iterator[None]:
    """A transaction after which SQLite's file has zeros where the text was."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete = ON")
    with write_transaction():
        yield
