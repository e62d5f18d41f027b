"""A conversation as its owner reads it: one way through the tree, with the versions beside it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db.models import TextField
from django.db.models.functions import Cast, Length

from conversations.models import Completion, Conversation, Message
from conversations.selectors import readable

MOST_MESSAGES = 100
MOST_CHARACTERS = 400_000
"""Of one page. Longer conversations come in portions, from the end."""

MOST_OF_ONE = 40_000
"""Characters of one message that the page shows; the whole of it is an address of its own."""

MOST_UNANSWERED = 20


@dataclass(frozen=True, slots=True)
class Step:
    """A message on the way. before, after: public ids of the versions beside it, "" for none.

    unanswered: requests on it that brought no message: running, or ended before the first word.
    """

    message: Message
    text: str
    length: int
    version: int
    versions: int
    before: str
    after: str
    unanswered: list[Completion] = field(default_factory=list)

    @property
    def is_cut(self) -> bool:
        return self.length > len(self.text)


@dataclass(frozen=True, slots=True)
class Way:
    """at: the public id of the message that it ends with, or was asked to go through. earlier: how
    many messages stand above the first step; is_end: whether the last step is the last message."""

    steps: list[Step]
    at: str
    earlier: int
    is_end: bool


class NoSuchMessage(LookupError):
    """The conversation has no message of this id, or not on this way."""


def way(conversation: Conversation, at: str = "", before: str = "") -> Way:
    """From the root through the message `at` to the newest message below it; without `at`, to the
    newest of all. Of that the last portion, or the one before the message `before`.

    Four queries, for a conversation without messages one. Raises NoSuchMessage.
    """
    tree = _Tree(
        conversation.messages.order_by("pk").values_list(
            "pk", "parent_id", "public_id", "choice_index"
        )
    )
    if not tree.public_ids and not at and not before:
        return Way([], "", 0, True)
    path = tree.path(tree.newest_below(tree.pk_of(at) if at else None))
    end = len(path)
    if before:
        pk = tree.pk_of(before)
        if pk not in path:
            raise NoSuchMessage(before)
        end = path.index(pk)
    portion = _portion(path[:end])
    messages = Message.objects.select_related("completion__content", "completion__api_key").in_bulk(
        portion
    )
    unanswered: dict[int | None, list[Completion]] = defaultdict(list)
    for completion in (
        conversation.completions.filter(head__in=portion, outputs=None)
        .select_related("content", "api_key")
        .order_by("-pk")[:MOST_UNANSWERED]
    ):
        unanswered[completion.head_id].insert(0, completion)
    steps = [_step(tree, messages[pk], unanswered[pk]) for pk in portion if pk in messages]
    return Way(
        steps,
        at=at or tree.public_ids[path[-1]],
        earlier=end - len(portion),
        is_end=end == len(path),
    )


def _step(tree: "_Tree", message: Message, unanswered: list[Completion]) -> Step:
    text = readable(message.content)
    siblings = tree.children[message.parent_id]
    place = siblings.index(message.pk)
    return Step(
        message,
        text=text[:MOST_OF_ONE],
        length=len(text),
        version=place + 1,
        versions=len(siblings),
        before=tree.public_ids[siblings[place - 1]] if place else "",
        after=tree.public_ids[siblings[place + 1]] if place + 1 < len(siblings) else "",
        unanswered=unanswered,
    )


def _portion(path: Sequence[int]) -> list[int]:
    """The last of the path that fit a page; one at least."""
    last = path[-MOST_MESSAGES:]
    sizes = dict(
        Message.objects.filter(pk__in=last)
        .annotate(size=Length(Cast("content", TextField())))
        .values_list("pk", "size")
    )
    portion: list[int] = []
    characters = 0
    for pk in reversed(last):
        # One that is cut anyway costs what is shown of it.
        characters += min(sizes.get(pk) or 0, MOST_OF_ONE)
        if portion and characters > MOST_CHARACTERS:
            break
        portion.insert(0, pk)
    return portion


class _Tree:
    """Who hangs below whom, by primary keys. A child is always newer than its parent."""

    def __init__(self, rows: object) -> None:
        self.parents: dict[int, int | None] = {}
        self.children: dict[int | None, list[int]] = defaultdict(list)
        self.public_ids: dict[int, str] = {}
        self._also_chosen: set[int] = set()
        for pk, parent_pk, public_id, choice_index in rows:  # type: ignore[attr-defined]
            self.parents[pk] = parent_pk
            self.children[parent_pk].append(pk)
            self.public_ids[pk] = public_id
            if choice_index:
                self._also_chosen.add(pk)

    def pk_of(self, public_id: str) -> int:
        for pk, known in self.public_ids.items():
            if known == public_id:
                return pk
        raise NoSuchMessage(public_id)

    def newest_below(self, top: int | None) -> int:
        """The newest message that `top` is above, or `top` itself. Of several choices of an answer
        the first is the one that counts, as for a client that goes on by the conversation's id."""
        if top is None:
            newest = [pk for pk in self.public_ids if pk not in self._also_chosen]
            return max(newest or self.public_ids)
        best, stack = top, list(self.children[top])
        while stack:
            pk = stack.pop()
            if pk not in self._also_chosen:
                best = max(best, pk)
            stack += self.children[pk]
        return best

    def path(self, leaf: int) -> list[int]:
        """From the root to `leaf`."""
        path: list[int] = []
        pk: int | None = leaf
        while pk is not None:
            path.append(pk)
            pk = self.parents[pk]
        return path[::-1]
