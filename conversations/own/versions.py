"""A conversation as its owner reads it: one way through the tree, with the versions beside it."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from django.db.models import TextField
from django.db.models.functions import Cast, Length

from conversations.models import Completion, Conversation, Message
from conversations.tree.paths import Tree
from conversations.tree.said import readable

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
    """The conversation's path (`tree.paths`), or that through the message `at`, with what waits for
    an answer below its end. Of that the last portion, or the one before the message `before`.

    Eight queries at most, however long it is. Raises NoSuchMessage.
    """
    tree = Tree.read(conversation.pk)
    leaf = tree.end(_pk_of(conversation, at) if at else None)
    path = tree.path_to(leaf) + tree.waiting_below(leaf)
    end = len(path)
    if before:
        pk = _pk_of(conversation, before)
        if pk not in path:
            raise NoSuchMessage(before)
        end = path.index(pk)
    if not path:
        return Way([], "", 0, True)
    portion = _portion(path[:end])
    versions = [_Versions.of(tree, pk) for pk in portion]
    public_ids = _public_ids({path[-1], *(pk for one in versions for pk in one.beside)})
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
    steps = [
        _step(messages[pk], one, public_ids, unanswered[pk])
        for pk, one in zip(portion, versions, strict=True)
        if pk in messages
    ]
    return Way(
        steps,
        at=at or public_ids.get(path[-1], ""),
        earlier=end - len(portion),
        is_end=end == len(path),
    )


@dataclass(frozen=True, slots=True)
class _Versions:
    """A message's place among its siblings, and those next to it."""

    place: int
    count: int
    before: int | None
    after: int | None

    @classmethod
    def of(cls, tree: Tree, pk: int) -> "_Versions":
        siblings = tree.children[tree.parents[pk]]
        place = siblings.index(pk)
        return cls(
            place,
            len(siblings),
            siblings[place - 1] if place else None,
            siblings[place + 1] if place + 1 < len(siblings) else None,
        )

    @property
    def beside(self) -> list[int]:
        return [pk for pk in (self.before, self.after) if pk is not None]


def _step(
    message: Message,
    versions: _Versions,
    public_ids: Mapping[int | None, str],
    unanswered: list[Completion],
) -> Step:
    text = readable(message.content)
    return Step(
        message,
        text=text[:MOST_OF_ONE],
        length=len(text),
        version=versions.place + 1,
        versions=versions.count,
        before=public_ids.get(versions.before, ""),
        after=public_ids.get(versions.after, ""),
        unanswered=unanswered,
    )


def _pk_of(conversation: Conversation, public_id: str) -> int:
    found = conversation.messages.filter(public_id=public_id).values_list("pk", flat=True).first()
    if found is None:
        raise NoSuchMessage(public_id)
    return found


def _public_ids(pks: Collection[int]) -> dict[int | None, str]:
    return dict(Message.objects.filter(pk__in=pks).values_list("pk", "public_id"))


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
