"""A user's own history as the API reads it: stored chats and conversations, page by page.

What asked for `store: false` is not in it; the pages show that too, with a note.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import connection, models
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL

from conversations.errors import NotFound
from conversations.models import Completion, Conversation, Message
from conversations.own.ownership import own_completions, own_conversations
from conversations.storage import keyset
from conversations.storage.plainly import plainly
from conversations.tree import paths

Row = TypeVar("Row", bound=models.Model)


@dataclass(frozen=True, slots=True)
class Cut:
    """Which part of a list is asked for: `limit` rows that follow the one with the id `after`."""

    after: str | None
    limit: int
    descending: bool


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: list[Row]
    has_more: bool


# ---- stored chat completions ---------------------------------------------------------------------


def chats_page(
    user_id: int,
    cut: Cut,
    *,
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
    status: str | None = None,
) -> Page[Completion]:
    """Stored chats in the order in which they began, with what `answers_of` and the API's JSON
    need. Raises NotFound for an `after` that the user does not have; one that was erased after it
    was listed is still a place to go on from."""
    chats = _chats(user_id)
    if model is not None:
        chats = plainly(chats, model=model)
    if status is not None:
        chats = plainly(chats, status=status)
    for key, value in (metadata or {}).items():
        chats = chats.filter(_holds(key, value))
    all_of_user = plainly(Completion.objects.filter(user=user_id), kind=Completion.Kind.CHAT)
    return _page(chats, all_of_user, "created_at", cut, "stored chat completion")


def chat(user_id: int, public_id: str) -> Completion:
    """One stored chat. Raises NotFound."""
    return _one(_chats(user_id), public_id, "stored chat completion", "completion_id")


def answers_of(completions: Collection[Completion]) -> dict[int, list[Message]]:
    """{primary key: its answers, the first choice first}; one query."""
    found: dict[int, list[Message]] = defaultdict(list)
    pks = [completion.pk for completion in completions]
    for message in Message.objects.filter(completion__in=pks).order_by("choice_index"):
        assert message.completion_id is not None
        found[message.completion_id].append(message)
    return found


def inputs_page(completion: Completion, cut: Cut) -> Page[Message]:
    """What a stored chat was asked: its messages from the first to the last input. Raises
    NotFound for an `after` that is none of them."""
    return _path_page(paths.path_to(completion.head_id, completion.conversation_id), cut, "message")


# ---- conversations -------------------------------------------------------------------------------


def conversations_page(user_id: int, cut: Cut) -> Page[Conversation]:
    """Conversations in the order of their last change. Raises NotFound for an unknown `after`."""
    conversations = _conversations(user_id)
    return _page(conversations, conversations, "updated_at", cut, "conversation")


def conversation(user_id: int, public_id: str, *, param: str = "conversation_id") -> Conversation:
    """One conversation. Raises NotFound."""
    return _one(_conversations(user_id), public_id, "conversation", param)


def items_page(conversation: Conversation, cut: Cut) -> Page[Message]:
    """The conversation's path. Raises NotFound for an `after` that is not on it."""
    return _path_page(paths.path_of(conversation.pk), cut, "item")


def item(conversation: Conversation, public_id: str) -> Message:
    """One message of the conversation, on its path or beside it. Raises NotFound."""
    messages = Message.objects.filter(conversation=conversation.pk)
    return _one(messages, public_id, "item", "item_id")


# ---- how ----------------------------------------------------------------------------------------


def _chats(user_id: int) -> QuerySet[Completion]:
    kept = own_completions(user_id).filter(is_stored=True)
    return plainly(kept, kind=Completion.Kind.CHAT).select_related("content", "conversation")


def _conversations(user_id: int) -> QuerySet[Conversation]:
    """All but those in which every request asked not to be shown."""
    asked = Completion.objects.filter(conversation=OuterRef("pk"))
    return own_conversations(user_id).filter(
        Exists(asked.filter(is_stored=True)) | ~Exists(asked.filter(is_stored=False))
    )


def _holds(key: str, value: str) -> Any:
    """Whether the metadata hold this pair, whatever characters its key is made of.

    Not Django's `metadata__KEY`: it takes a key of digits for the place in an array, and SQLite's
    paths have no way to write a quote.
    """
    if connection.vendor == "postgresql":
        return Q(metadata__contains={key: value})
    column = f"{connection.ops.quote_name(Completion._meta.db_table)}.metadata"
    pairs = f"SELECT 1 FROM json_each({column}) AS pair WHERE pair.key = %s AND pair.value = %s"  # noqa: S608
    return RawSQL(f"EXISTS ({pairs})", [key, value], output_field=models.BooleanField())  # noqa: S611


def _one(rows: QuerySet[Row], public_id: str, kind: str, param: str) -> Row:
    found = rows.filter(public_id=public_id).first() if _may_be_id(public_id) else None
    if found is None:
        raise NotFound(kind, public_id, param=param)
    return found


def _may_be_id(text: str) -> bool:
    """PostgreSQL refuses to compare with NUL, and no id has one."""
    return text.isascii() and text.isprintable()


def _page(rows: QuerySet[Row], known: QuerySet[Row], time: str, cut: Cut, kind: str) -> Page[Row]:
    """`known`: the rows that `after` may name. Both are walked by the index over user and time."""
    place = None
    if cut.after is not None:
        row = _one(known, cut.after, kind, "after")
        place = getattr(row, time), row.pk
    ordered = keyset.in_order(rows, time, descending=cut.descending, after=place)
    found = list(ordered[: cut.limit + 1])
    return Page(found[: cut.limit], len(found) > cut.limit)


def _path_page(path: list[int], cut: Cut, kind: str) -> Page[Message]:
    ordered = list(path[::-1] if cut.descending else path)
    if cut.after is not None:
        named = Message.objects.filter(public_id=cut.after) if _may_be_id(cut.after) else []
        place = next((message.pk for message in named), None)
        if place not in path:
            raise NotFound(kind, cut.after, param="after")
        ordered = ordered[ordered.index(place) + 1 :]
    found = paths.messages_in_order(ordered[: cut.limit])
    return Page(found, len(ordered) > cut.limit)
