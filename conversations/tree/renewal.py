"""Messages below one that went, or says something else now, get the depths and hashes of their new
history. The whole tree is locked (`locking.in_whole_trees`).

Loops over levels, never recurs: a tree may be thousands of messages deep.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conversations.models import Completion, Message
from conversations.storage import rows
from conversations.storage.portions import in_portions
from conversations.tree import chain
from conversations.tree.paths import messages_in_order


def gap_close(deleted: Message, root_hash: str) -> None:
    """Deletes one message of a user whose chain begins with `root_hash`. What stood below it moves
    up, and input that then stands twice in one place becomes one."""
    places = _Places.read(deleted.conversation_id)
    instead = {deleted.pk: deleted.parent_id}
    _renew(places, places.below([deleted.pk]), instead, up=1, root_hash=root_hash)


def hashes_renew(conversation_pk: int, changed: Sequence[int]) -> None:
    """After these messages got other hashes. Answers that are equal now may have equal input below
    them, which becomes one."""
    if not changed:
        return
    places = _Places.read(conversation_pk)
    _renew(places, places.below(changed), {})


@dataclass(slots=True)
class _Places:
    """The tree of a conversation without its texts, by primary keys."""

    parents: dict[int, int | None] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    inputs: set[int] = field(default_factory=set)
    children: dict[int | None, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, conversation_pk: int) -> "_Places":
        places = cls()
        for pk, parent_pk, depth, chain_hash, choice_index in (
            Message.objects.filter(conversation=conversation_pk)
            .order_by("pk")
            .values_list("pk", "parent", "depth", "chain_hash", "choice_index")
        ):
            places.parents[pk], places.depths[pk] = parent_pk, depth
            places.hashes[pk] = chain_hash
            places.children[parent_pk].append(pk)
            if choice_index is None:
                places.inputs.add(pk)
        return places

    def below(self, tops: Sequence[int]) -> list[int]:
        """What hangs below these, from above to below."""
        found: list[int] = []
        level = list(tops)
        while level:
            level = [child for pk in level for child in self.children[pk]]
            found += level
        return found


def _renew(
    places: _Places,
    below: Sequence[int],
    instead: dict[int, int | None],
    *,
    up: int = 0,
    root_hash: str = "",
) -> None:
    """Gives the messages `below` their hashes anew, from above to below, and moves them `up`.

    instead: {message that goes: the one in whose place it is}; those become more here.
    """
    moved = {*below, *instead}
    inputs = {places.hashes[pk]: pk for pk in places.inputs - moved}
    changes: list[tuple[int, tuple[object, ...]]] = []
    for message in _texts(below):
        pk, parent_pk = message.pk, places.parents[message.pk]
        if parent_pk in instead:
            parent_pk = instead[parent_pk]
        parent_hash = root_hash if parent_pk is None else places.hashes[parent_pk]
        chain_hash = chain.link(parent_hash, message.role, message.name, message.content)
        if pk in places.inputs:
            if chain_hash in inputs:
                instead[pk] = inputs[chain_hash]
                continue
            inputs[chain_hash] = pk
        places.hashes[pk] = chain_hash
        changes.append((pk, (parent_pk, places.depths[pk] - up, chain_hash)))

    for gone_pk, kept_pk in instead.items():
        Completion.objects.filter(head=gone_pk).update(head=kept_pk)
    for portion in in_portions(list(instead)):
        gone = Message.objects.filter(pk__in=portion)
        gone._raw_delete(gone.db)  # Django would read all that hangs below them first.
    # From above to below, so that no two inputs have one hash in between.
    rows.update_all(Message, ("parent", "depth", "chain_hash"), changes)


def _texts(pks: Sequence[int]) -> Iterator[Message]:
    """What these messages say, in this order, a portion of them in memory at a time."""
    for portion in in_portions(pks):
        yield from messages_in_order(portion)
