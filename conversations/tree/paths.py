"""The path of a conversation: of its tree, the one line of messages that is its history now.

It goes from the root to the newest message; what a client sent in a request that brought no answer
(it runs still, or failed) is not the end of it, and of several choices the first one counts. So a
request that is sent again finds the history that its first try found.

A tree may be thousands of messages deep: everything here loops, nothing recurs.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conversations.errors import ConversationChanged
from conversations.models import Completion, Message
from conversations.storage import rows
from conversations.storage.portions import in_portions
from conversations.tree import chain


@dataclass(frozen=True, slots=True)
class Leaf:
    """A message below which something is to hang: the end of a path, or the last input of a
    request.

    pk: None if nothing is above; the depth is -1 then, and the hash the user's root.
    """

    conversation_pk: int
    pk: int | None
    depth: int
    chain_hash: str

    @classmethod
    def at(cls, message_pk: int) -> "Leaf":
        """This message, as it is stored now. Raises Message.DoesNotExist."""
        row = rows.read(Message, message_pk, "conversation", "depth", "chain_hash")
        if row is None:
            raise Message.DoesNotExist
        conversation_pk, depth, chain_hash = row
        return cls(conversation_pk, message_pk, depth, chain_hash)

    @classmethod
    def root(cls, conversation_pk: int, user_id: int) -> "Leaf":
        return cls(conversation_pk, None, -1, chain.root(user_id))

    @classmethod
    def of(cls, conversation_pk: int, user_id: int, path: Sequence[int]) -> "Leaf":
        """The end of this path. Raises Message.DoesNotExist."""
        return cls.at(path[-1]) if path else cls.root(conversation_pk, user_id)


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
    """The primary keys of the path's messages, the first message first. Two queries."""
    tree = Tree.read(conversation_pk)
    return tree.path_to(tree.end())


def path_to(head_pk: int | None, conversation_pk: int | None) -> list[int]:
    """The primary keys of the messages down to `head_pk`, the first message first."""
    if head_pk is None or conversation_pk is None:
        return []
    messages = Message.objects.filter(conversation=conversation_pk)
    return _down_to(head_pk, dict(messages.values_list("pk", "parent")))


@dataclass(slots=True)
class Tree:
    """Who hangs below whom in a conversation, by primary keys; children are in their order.

    waiting: what was sent in a request that brought no answer. further: choices of an answer beside
    the first that is there. Neither is the end of a path.
    """

    parents: dict[int, int | None] = field(default_factory=dict)
    children: dict[int | None, list[int]] = field(default_factory=lambda: defaultdict(list))
    waiting: set[int] = field(default_factory=set)
    further: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, conversation_pk: int) -> "Tree":
        # A request and the messages that it brought are stored with one and the same time
        # (`services.completion_start`).
        unanswered = set(
            Completion.objects.filter(conversation=conversation_pk, was_answered=False).values_list(
                "created_at", flat=True
            )
        )
        tree = cls()
        choices: dict[int, list[tuple[int, int]]] = defaultdict(list)
        # Sorted here: PostgreSQL, asked for them in this order, may walk the keys of the whole
        # table until it has met them all.
        for pk, parent_pk, completion_pk, choice_index, created_at in sorted(
            Message.objects.filter(conversation=conversation_pk).values_list(
                "pk", "parent", "completion", "choice_index", "created_at"
            )
        ):
            tree.parents[pk] = parent_pk
            tree.children[parent_pk].append(pk)
            if choice_index is None:
                if created_at in unanswered:
                    tree.waiting.add(pk)
            elif completion_pk is not None:
                choices[completion_pk].append((choice_index, pk))
        for answer in choices.values():
            tree.further |= {pk for _, pk in sorted(answer)[1:]}
        return tree

    def end(self, top: int | None = None) -> int | None:
        """The newest message that may be the end of a path, of those that `top` is above, or `top`
        itself; without `top`, of all: None if there is none."""
        ends = (pk for pk in self.below(top) if pk not in self.waiting and pk not in self.further)
        return max(ends, default=top)

    def waiting_below(self, end: int | None) -> list[int]:
        """What was asked last below the end of a path, and is not answered."""
        found = []
        while asked := [pk for pk in self.children[end] if pk in self.waiting]:
            end = max(asked)
            found.append(end)
        return found

    def below(self, top: int | None) -> Iterator[int]:
        """The messages that `top` is above; without one, all."""
        if top is None:
            yield from self.parents
            return
        stack = [*self.children[top]]
        while stack:
            pk = stack.pop()
            yield pk
            stack += self.children[pk]

    def path_to(self, leaf: int | None) -> list[int]:
        """From the root down to `leaf`."""
        return _down_to(leaf, self.parents)


def messages_in_order(pks: Sequence[int]) -> list[Message]:
    """These messages, in this order; those that are gone meanwhile are left out."""
    found: dict[int, Message] = {}
    for portion in in_portions(pks):
        found |= Message.objects.in_bulk(portion)
    return [found[pk] for pk in pks if pk in found]


def _down_to(end_pk: int | None, parents: dict[int, int | None]) -> list[int]:
    path = []
    while end_pk is not None and end_pk in parents:
        path.append(end_pk)
        end_pk = parents[end_pk]
    return path[::-1]
