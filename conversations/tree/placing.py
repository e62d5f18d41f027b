"""Where the input of a request goes in the tree. Called in a transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from conversations.errors import ConversationChanged
from conversations.models import Conversation, Message
from conversations.storage import rows
from conversations.storage.jsontext import JSONValue
from conversations.tree import chain
from conversations.tree.locking import lock_conversation
from conversations.tree.matching import deepest_answer, stored_inputs
from conversations.tree.paths import Leaf
from conversations.tree.said import NewMessage, title_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer will hang: below `head`, the last input message."""

    conversation_pk: int
    conversation_id: str
    head_pk: int


def place_input(
    *,
    user_id: int,
    api_key_id: int | None,
    messages: Sequence[NewMessage],
    match_history: bool,
    now: datetime,
    below: Leaf | None = None,
) -> Place:
    """Finds or makes the conversation that this history continues, and stores what is new of it.

    A history continues the conversation of its deepest answer that was generated here; without
    one it begins a conversation, for thousands may begin with the same words. Input that already
    stands in its place is used again, so that a regenerated answer becomes a sibling.
    The number of queries does not grow with the history (up to 500 messages).

    With `below`, `messages` are only what is new, and go there. Raises ConversationChanged if that
    end of a conversation is not there any more.
    """
    if below is not None:
        hashes = chain.links(below.chain_hash, _hashed(messages))
        place = _place_below(below, user_id, messages, hashes, now)
        if place is None:
            raise ConversationChanged
        return place
    hashes = chain.hashes(user_id, _hashed(messages))
    leaf = deepest_answer(messages, hashes) if match_history else None
    if leaf is not None:
        start = leaf.depth + 1
        place = _place_below(leaf, user_id, messages[start:], hashes[start:], now)
        if place is not None:
            return place
    conversation = _begin_conversation(user_id, api_key_id, messages, now)
    created = new_inputs(conversation.pk, None, 0, messages, hashes, now)
    rows.insert_all(created)
    return Place(conversation.pk, conversation.public_id, created[-1].pk)


def _place_below(
    leaf: Leaf, user_id: int, messages: Sequence[NewMessage], hashes: Sequence[str], now: datetime
) -> Place | None:
    """None if the leaf is not there any more, as it was read; then nothing is stored."""
    conversation = lock_conversation(leaf.conversation_pk, user_id)
    known = stored_inputs(leaf, hashes) if conversation else None
    if conversation is None or known is None:
        return None
    head_pk, start = known[-1] if known else leaf.pk, len(known)
    created = new_inputs(
        conversation.pk, head_pk, leaf.depth + 1 + start, messages[start:], hashes[start:], now
    )
    rows.insert_all(created)
    if messages and not conversation.title:
        rows.update(Conversation, conversation.pk, title=title_of(messages))
    head_pk = created[-1].pk if created else head_pk
    assert head_pk is not None, "an empty conversation is continued by a message at least"
    return Place(conversation.pk, conversation.public_id, head_pk)


def new_inputs(
    conversation_pk: int,
    parent_pk: int | None,
    depth: int,
    messages: Sequence[NewMessage],
    hashes: Sequence[str],
    now: datetime,
) -> list[Message]:
    """Rows for messages one below the other, with their primary keys, not stored yet."""
    created = []
    for pk, message, chain_hash in zip(
        _reserve_message_pks(len(messages)), messages, hashes, strict=True
    ):
        created.append(
            Message(
                pk=pk,
                conversation_id=conversation_pk,
                parent_id=parent_pk,
                depth=depth,
                role=message.role,
                name=message.name,
                content=message.content,
                chain_hash=chain_hash,
                created_at=now,
            )
        )
        parent_pk, depth = pk, depth + 1
    return created


def _begin_conversation(
    user_id: int, api_key_id: int | None, messages: Sequence[NewMessage], now: datetime
) -> Conversation:
    conversation = Conversation(
        user_id=user_id,
        api_key_id=api_key_id,
        title=title_of(messages),
        created_at=now,
        updated_at=now,
    )
    conversation.pk = rows.insert(conversation)
    return conversation


def _hashed(messages: Sequence[NewMessage]) -> Iterator[tuple[str, str, JSONValue]]:
    """What of each message its hash covers."""
    return ((message.role, message.name, message.content) for message in messages)


def _reserve_message_pks(count: int) -> list[int]:
    """Primary keys for rows that name each other as parents, so that one INSERT stores them all."""
    table = Message._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT nextval(pg_get_serial_sequence(%s, 'id')) FROM generate_series(1, %s)",
                [table, count],
            )
            return sorted(row[0] for row in cursor.fetchall())
        # SQLite: our transactions are IMMEDIATE, so nobody else writes before this one ends, and
        # an INSERT that names its keys moves the sequence along.
        cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [table])
        row = cursor.fetchone()
        last = row[0] if row else 0
        return list(range(last + 1, last + 1 + count))
