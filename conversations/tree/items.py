"""Writes of conversations that clients keep by id: make, label, append, delete an item. Each is a
transaction of its own; none may be called from an event loop's thread."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from django.utils import timezone

from conversations.errors import ConversationBusy, NotFound
from conversations.models import Completion, Conversation, IdempotencyKey, Message
from conversations.storage import rows
from conversations.storage.writing import write_transaction
from conversations.tree import chain, paths
from conversations.tree.locking import in_whole_trees
from conversations.tree.matching import stored_inputs
from conversations.tree.paths import Leaf
from conversations.tree.placing import new_inputs
from conversations.tree.renewal import gap_close
from conversations.tree.said import NewMessage, title_of
from conversations.tree.titles import title_of_message, title_renew

Result = TypeVar("Result")


def conversation_create(
    *,
    user_id: int,
    api_key_id: int | None,
    metadata: dict[str, str],
    messages: Sequence[NewMessage] = (),
) -> Conversation:
    """A new conversation with these messages, one below the other."""
    now = timezone.now()
    with write_transaction():
        conversation = Conversation(
            user_id=user_id,
            api_key_id=api_key_id,
            title=title_of(messages) if messages else "",
            metadata=metadata,
            created_at=now,
            updated_at=now,
        )
        conversation.save(force_insert=True)
        hashes = chain.links(chain.root(user_id), [(m.role, m.name, m.content) for m in messages])
        rows.insert_all(new_inputs(conversation.pk, None, 0, messages, hashes, now))
    return conversation


def conversation_label(conversation: Conversation, metadata: dict[str, str]) -> None:
    """Replaces its metadata."""
    Conversation.objects.filter(pk=conversation.pk).update(metadata=metadata)
    conversation.metadata = metadata


def completion_label(completion: Completion, metadata: dict[str, str]) -> None:
    """Replaces its metadata; one that was erased meanwhile is left without."""
    Completion.objects.filter(pk=completion.pk, erased_at=None).update(metadata=metadata)
    completion.metadata = metadata


def items_append(conversation: Conversation, messages: Sequence[NewMessage]) -> list[Message]:
    """Puts messages at the end of the conversation's path, and returns them.

    Raises NotFound if the conversation was deleted meanwhile; ConversationBusy while a request of
    it runs, for its answer will be the end of the path.
    """
    return _while_idle(conversation, lambda locked: _append(locked, messages))


def item_delete(conversation: Conversation, message_id: str) -> None:
    """Deletes one message of a conversation, wherever it stands; what stood below it moves up.

    What follows it has another history now, so its depths and hashes are made anew, and input that
    then stands twice in one place becomes one. Raises NotFound, ConversationBusy.
    """
    _while_idle(conversation, lambda locked: _delete(locked, message_id))


def _while_idle(conversation: Conversation, work: Callable[[Conversation], Result]) -> Result:
    """Calls `work(conversation)` of the row as it is now, while nobody adds to it or answers in
    it."""

    def work_if_idle(conversations: dict[int, Conversation], statuses: dict[int, str]) -> Result:
        if conversation.pk not in conversations:
            raise NotFound("conversation", conversation.public_id, param="conversation_id")
        if Completion.Status.RUNNING in statuses.values():
            raise ConversationBusy
        return work(conversations[conversation.pk])

    trees = Conversation.objects.filter(pk=conversation.pk, user=conversation.user_id)
    return in_whole_trees(trees, work_if_idle)


def _append(conversation: Conversation, messages: Sequence[NewMessage]) -> list[Message]:
    now = timezone.now()
    pk = conversation.pk
    leaf = Leaf.of(pk, conversation.user_id, paths.path_of(pk))
    hashes = chain.links(leaf.chain_hash, [(m.role, m.name, m.content) for m in messages])
    created = new_inputs(pk, leaf.pk, leaf.depth + 1, messages, hashes, now)
    for old_pk, message in zip(stored_inputs(leaf, hashes) or (), created, strict=False):
        _replace_by(old_pk, message)
    rows.insert_all(created)
    title = conversation.title or title_of(messages)
    rows.update(Conversation, pk, title=title, updated_at=now, reviewed_at=None)
    return created


def _replace_by(old_pk: int, message: Message) -> None:
    """Equal input is stored once in its place; it may stand there already, below an equal answer
    that is not the end of the path. The new row takes over what hangs below it."""
    Message.objects.filter(parent=old_pk).update(parent=message.pk)
    Completion.objects.filter(head=old_pk).update(head=message.pk)
    Message.objects.filter(pk=old_pk).delete()


def _delete(conversation: Conversation, message_id: str) -> None:
    pk = conversation.pk
    message = Message.objects.filter(conversation=pk, public_id=message_id).first()
    if message is None:
        raise NotFound("item", message_id, param="item_id")
    gap_close(message, chain.root(conversation.user_id))
    # An answer that is kept to be sent again may be this one, or repeat this question.
    IdempotencyKey.objects.filter(completion__conversation=pk).update(answer="")
    title_renew(pk, [title_of_message(message)])
    rows.update(Conversation, pk, updated_at=timezone.now(), reviewed_at=None)
