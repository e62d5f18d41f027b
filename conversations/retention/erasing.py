"""What was said, taken away for good; that it was asked stays and counts as usage.

An erased completion keeps its user, key, model, counts and times, gets `erased_at`, and points to
nothing that was said. A request that is erased while it runs (`user_erase` alone does that) goes on
for its client; `completion_finish` then writes how it ended and no word of it.
Plain synchronous functions; database errors (django.db.Error) reach the caller.
"""

from collections.abc import Iterable

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone

from conversations.errors import ConversationBusy
from conversations.models import (
    Completion,
    CompletionContent,
    Conversation,
    IdempotencyKey,
    Label,
    Message,
)
from conversations.reviews import labels_drop
from conversations.storage.portions import in_portions, keys_in_portions
from conversations.storage.writing import write_transaction
from conversations.tree.locking import in_whole_trees, lock_conversation
from conversations.tree.titles import title_of_message, title_renew

Status = Completion.Status
# A transaction that erases holds SQLite's one write lock: tens of milliseconds for so many.
CONVERSATIONS_AT_ONCE = 50
COMPLETIONS_AT_ONCE = 500


def completion_erase(completion_pk: int) -> None:
    """Erases one request. In a conversation, its answers and those of its inputs that nothing else
    stands on go; what a later turn repeats stays, as a part of that one. A conversation without
    messages goes too.

    One transaction; an erased one is left as it is. Raises Completion.DoesNotExist, and
    ConversationBusy if it runs.
    """
    with write_transaction():
        completion = Completion.objects.select_for_update().get(pk=completion_pk)
        if completion.status == Status.RUNNING:
            raise ConversationBusy
        if completion.erased_at is not None:
            return
        if completion.conversation_id is not None:
            lock_conversation(completion.conversation_id, completion.user_id)
        _forget([completion.pk])
        if completion.conversation_id is not None:
            _prune_branch(completion.conversation_id, completion)


def conversation_erase(conversation_pk: int) -> None:
    """Erases a conversation and all requests of it.

    One transaction. Raises Conversation.DoesNotExist; ConversationBusy if one of them runs.
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
    for pks in keys_in_portions(trees, CONVERSATIONS_AT_ONCE):
        completions += Completion.objects.filter(conversation__in=pks).count()
        conversations += trees_erase(trees.filter(pk__in=pks), running_too=True)
    said = Completion.objects.filter(user=user_pk, erased_at=None, conversation=None)
    for pks in keys_in_portions(said, COMPLETIONS_AT_ONCE):
        completions += completions_erase(said.filter(pk__in=pks))
    return conversations, completions


def trees_erase(trees: models.QuerySet[Conversation], *, running_too: bool = False) -> int:
    """Erases conversations with their requests, in one transaction; returns how many.

    Raises ConversationBusy, and then erases none.
    """

    def erase(conversations: dict[int, Conversation], statuses: dict[int, str]) -> int:
        if Status.RUNNING in statuses.values() and not running_too:
            raise ConversationBusy
        _forget(list(statuses))
        pks = list(conversations)
        # Before the conversation, without which Django would read them all to find out what hangs
        # on them: nothing does any more.
        messages = Message.objects.filter(conversation__in=pks)
        messages._raw_delete(messages.db)
        _delete_empty(pks)
        return len(pks)

    return in_whole_trees(trees, erase)


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


# ---- trees ---------------------------------------------------------------------------------------


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
    titles: set[str] = set()
    for pks in in_portions(gone):
        leaves = Message.objects.filter(pk__in=pks)
        titles |= {title_of_message(message) for message in leaves}
        leaves._raw_delete(leaves.db)
    if not parents:
        _delete_empty([conversation_pk])
    else:
        title_renew(conversation_pk, titles)


def _delete_empty(conversation_pks: list[int]) -> None:
    """Conversations without messages go, with what staff said of them."""
    labels = list(Label.objects.filter(reviews__in=conversation_pks).values_list("pk", flat=True))
    _unname(Conversation, conversation_pks)
    Conversation.objects.filter(pk__in=conversation_pks).delete()
    # A word that was found for these alone may say whom or what they were about.
    _unname(Label, labels_drop(labels))


# ---- rows ----------------------------------------------------------------------------------------


def _forget(completion_pks: list[int]) -> None:
    """Takes from these requests, which are locked, all that was said and points to it."""
    for pks in in_portions(completion_pks):
        CompletionContent.objects.filter(pk__in=pks).delete()
        # The key stands for the request still: what was deleted is not to be said anew by itself.
        IdempotencyKey.objects.filter(completion__in=pks).update(answer="")
        Completion.objects.filter(pk__in=pks).update(
            conversation=None,
            head=None,
            metadata={},
            error="",
            erased_at=timezone.now(),
        )


def _unname(model: type[models.Model], pks: Iterable[int]) -> None:
    """The admin's log keeps what it calls its objects: a label its name; a conversation, in older
    databases, its title."""
    kind = ContentType.objects.get_for_model(model)
    names = LogEntry.objects.filter(content_type=kind, object_id__in=[str(pk) for pk in pks])
    names.update(object_repr="(erased)")
