"""The path of a conversation: of its tree, the one line of messages that is its history now.

It goes from the root to the newest message; what a client sent in a request that brought no answer
(it runs still, or failed) is not the end of it, and of several choices the first one counts. So a
request that is sent again finds the history that its first try found.

A tree may be thousands of messages deep: everything here loops, nothing recurs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef

from conversations.errors import ConversationChanged
from conversations.models import Completion, Message
from conversations.tree import chain

ROWS_PER_QUERY = 500
"""Primary keys in one query: below SQLite's limit of variables."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The end of a path, below which its continuation hangs.

    pk: None if the conversation is empty; its depth is -1 then, and its hash the user's root.
    """

    conversation_pk: int
    pk: int | None
    depth: int
    chain_hash: str

    @classmethod
    def of(cls, conversation_pk: int, user_id: int, path: Sequence[int]) -> "Leaf":
        """The end of this path, as it is stored now. Raises Message.DoesNotExist."""
        if not path:
            return cls(conversation_pk, None, -1, chain.root(user_id))
        end = Message.objects.values_list("depth", "chain_hash").get(pk=path[-1])
        return cls(conversation_pk, path[-1], *end)


def history_of(conversation_pk: int, user_id: int) -> tuple[Leaf, list[Message]]:
    """The path's messages, and its end, below which they are to be continued.

    The end is read before them: whatever changes a message above it changes its hash too, so if it
    is unchanged when the continuation is stored, the messages were as they are here.
    Raises ConversationChanged if one of them goes while they are read.
    """
    path = path_of(conversation_pk)
    try:
        leaf = Leaf.of(conversation_pk, user_id, path)
    except Message.DoesNotExist as error:
        raise ConversationChanged from error
    messages = messages_in_order(path)
    if len(messages) < len(path):
        raise ConversationChanged
    return leaf, messages


def path_of(conversation_pk: int) -> list[int]:
    """The primary keys of the path's messages, the first message first. Three queries."""
    unanswered = _unanswered_since(conversation_pk)
    parents: dict[int, int | None] = {}
    newest = None
    # Sorted here: asked for the greatest key of a conversation, PostgreSQL may walk down the keys
    # of the whole table until it meets one.
    for pk, parent_pk, choice_index, created_at in Message.objects.filter(
        conversation=conversation_pk
    ).values_list("pk", "parent", "choice_index", "created_at"):
        parents[pk] = parent_pk
        is_waiting = choice_index is None and created_at in unanswered
        if not choice_index and not is_waiting and (newest is None or pk > newest):
            newest = pk
    return _down_to(newest, parents)


def path_to(head_pk: int | None, conversation_pk: int | None) -> list[int]:
    """The primary keys of the messages down to `head_pk`, the first message first."""
    if head_pk is None or conversation_pk is None:
        return []
    messages = Message.objects.filter(conversation=conversation_pk)
    return _down_to(head_pk, dict(messages.values_list("pk", "parent")))


def messages_in_order(pks: Sequence[int]) -> list[Message]:
    """These messages, in this order; those that are gone meanwhile are left out."""
    found: dict[int, Message] = {}
    for portion in in_portions(pks):
        found |= Message.objects.in_bulk(portion)
    return [found[pk] for pk in pks if pk in found]


def in_portions(pks: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(pks), ROWS_PER_QUERY):
        yield pks[start : start + ROWS_PER_QUERY]


def _unanswered_since(conversation_pk: int) -> set[datetime]:
    """When the requests began that have no answer. A request and the messages that it brought are
    stored with one and the same time (`services.completion_start`)."""
    answers = Message.objects.filter(completion=OuterRef("pk"))
    unanswered = Completion.objects.filter(~Exists(answers), conversation=conversation_pk).exclude(
        status=Completion.Status.COMPLETED  # Its answer was deleted: the question stays.
    )
    return set(unanswered.values_list("created_at", flat=True))


def _down_to(end_pk: int | None, parents: dict[int, int | None]) -> list[int]:
    path = []
    while end_pk is not None and end_pk in parents:
        path.append(end_pk)
        end_pk = parents[end_pk]
    return path[::-1]
