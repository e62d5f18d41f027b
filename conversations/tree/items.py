"""Writes of conversations that clients keep by id: make, label, append, delete an item. Each is a
transaction of its own; none may be called from an event loop's thread."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from django.utils import timezone

from conversations.errors import ConversationBusy, NotFound
from conversations.models import Completion, Conversation, Message
from conversations.storage import rows
from conversations.storage.writing import write_transaction
from conversations.tree import chain, paths
from conversations.tree.matching import stored_inputs
from conversations.tree.paths import Leaf
from conversations.tree.placing import lock_conversation, new_inputs
from conversations.tree.said import NewMessage, title_of


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
    now = timezone.now()
    with write_transaction():
        title = _lock_idle(conversation)
        user_id, pk = conversation.user_id, conversation.pk
        leaf = Leaf.of(pk, user_id, paths.path_of(pk))
        said = [(m.role, m.name, m.content) for m in messages]
        hashes = chain.links(leaf.chain_hash, said)
        created = new_inputs(pk, leaf.pk, leaf.depth + 1, messages, hashes, now)
        for old_pk, message in zip(stored_inputs(leaf, hashes) or (), created, strict=False):
            _replace_by(old_pk, message)
        rows.insert_all(created)
        changed: dict[str, object] = {"updated_at": now, "reviewed_at": None}
        if not title:
            changed["title"] = title_of(messages)
        rows.update(Conversation, pk, **changed)
    return created


def item_delete(conversation: Conversation, message_id: str) -> None:
    """Deletes one message of a conversation, wherever it stands; what stood below it moves up.

    What follows it has another history now, so its depths and hashes are made anew, and input that
    then stands twice in one place becomes one. Raises NotFound, ConversationBusy.
    """
    with write_transaction():
        title = _lock_idle(conversation)
        message = Message.objects.filter(conversation=conversation.pk, public_id=message_id).first()
        if message is None:
            raise NotFound("item", message_id, param="item_id")
        _close_gap(message, conversation.user_id)
        changed: dict[str, object] = {"updated_at": timezone.now(), "reviewed_at": None}
        if title == title_of([NewMessage(message.role, message.content)]):
            left = paths.messages_in_order(paths.path_of(conversation.pk))
            said = [NewMessage(m.role, m.content) for m in left]
            changed["title"] = title_of(said) if said else ""
        rows.update(Conversation, conversation.pk, **changed)


def _lock_idle(conversation: Conversation) -> str:
    """Nobody adds to the conversation or answers in it before the transaction ends. Returns its
    title."""
    # Requests before their conversation: the order in which an end locks them too.
    asked = Completion.objects.filter(conversation=conversation.pk).order_by("pk")
    list(asked.select_for_update(no_key=True).values_list("pk"))
    locked = lock_conversation(conversation.pk, conversation.user_id)
    if locked is None:
        raise NotFound("conversation", conversation.public_id, param="conversation_id")
    if asked.filter(status=Completion.Status.RUNNING).exists():
        raise ConversationBusy
    return locked.title


def _replace_by(old_pk: int, message: Message) -> None:
    """Equal input is stored once in its place; it may stand there already, below an equal answer
    that is not the end of the path. The new row takes over what hangs below it."""
    Message.objects.filter(parent=old_pk).update(parent=message.pk)
    Completion.objects.filter(head=old_pk).update(head=message.pk)
    Message.objects.filter(pk=old_pk).delete()


def _close_gap(deleted: Message, user_id: int) -> None:
    """Deletes one message and joins both ends of the tree. Loops over levels: a tree may be
    thousands of messages deep."""
    places: dict[int, tuple[int | None, int, int | None]] = {}
    children: dict[int | None, list[int]] = defaultdict(list)
    hashes: dict[int, str] = {}
    for pk, parent_pk, depth, choice_index, chain_hash in (
        Message.objects.filter(conversation=deleted.conversation_id)
        .order_by("pk")
        .values_list("pk", "parent", "depth", "choice_index", "chain_hash")
    ):
        places[pk] = parent_pk, depth, choice_index
        children[parent_pk].append(pk)
        hashes[pk] = chain_hash

    below: list[int] = []  # from above to below, so that a parent's new hash is there first
    level = children[deleted.pk]
    while level:
        below += level
        level = [child for pk in level for child in children[pk]]

    moved = {deleted.pk, *below}
    inputs = {
        hashes[pk]: pk
        for pk, (_, _, choice) in places.items()
        if choice is None and pk not in moved
    }
    instead: dict[int, int | None] = {deleted.pk: deleted.parent_id}
    changes: list[tuple[int, tuple[object, ...]]] = []
    for message in _texts(below):
        pk = message.pk
        old_parent_pk, depth, choice_index = places[pk]
        parent_pk = instead.get(old_parent_pk, old_parent_pk) if old_parent_pk is not None else None
        parent_hash = chain.root(user_id) if parent_pk is None else hashes[parent_pk]
        chain_hash = chain.link(parent_hash, message.role, message.name, message.content)
        if choice_index is None and chain_hash in inputs:
            instead[pk] = inputs[chain_hash]
            continue
        hashes[pk] = chain_hash
        if choice_index is None:
            inputs[chain_hash] = pk
        changes.append((pk, (parent_pk, depth - 1, chain_hash)))

    for gone_pk, kept_pk in instead.items():
        Completion.objects.filter(head=gone_pk).update(head=kept_pk)
    for portion in paths.in_portions(list(instead)):
        gone = Message.objects.filter(pk__in=portion)
        gone._raw_delete(gone.db)  # Django would read all that hangs below them first.
    # From above to below, so that no two inputs have one hash in between.
    rows.update_all(Message, ("parent", "depth", "chain_hash"), changes)


def _texts(pks: Sequence[int]) -> Iterator[Message]:
    """What these messages say, in this order, a portion of them in memory at a time."""
    for portion in paths.in_portions(pks):
        yield from paths.messages_in_order(portion)
