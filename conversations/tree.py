"""Where messages go in the tree of their conversation. Called by `services`, in a transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.db.models import Q

from conversations import chain, rows
from conversations.jsontext import JSONValue
from conversations.models import Conversation, Message

TITLE_LENGTH = 80
# Hashes in one query: far below SQLite's limit, and more than nearly every history is long.
HASHES_PER_QUERY = 500


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One message as a client sent it. `content`: a string, a list of parts, or None."""

    role: str
    content: JSONValue
    name: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    """How one choice ended. `finish_reason`: None if it did not come to an end of its own."""

    index: int
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer will hang: below `head`, the last input message."""

    conversation_pk: int
    head_pk: int


@dataclass(frozen=True, slots=True)
class Match:
    """The deepest message of a history that was generated here."""

    pk: int
    conversation_pk: int
    depth: int


def place_input(
    *,
    user_id: int,
    api_key_id: int | None,
    messages: Sequence[NewMessage],
    match_history: bool,
    now: datetime,
) -> Place:
    """Finds or makes the conversation that this history continues, and stores what is new of it.

    A history continues the conversation of its deepest answer that was generated here; without
    one it begins a conversation, for thousands may begin with the same words. Input that already
    stands in its place is used again, so that a regenerated answer becomes a sibling.
    The number of queries does not grow with the history (up to 500 messages).
    """
    hashes = chain.hashes(user_id, ((m.role, m.name, m.content) for m in messages))
    match = _deepest_answer(messages, hashes) if match_history else None
    known = None
    if match is not None and _lock_conversation(match.conversation_pk, user_id):
        known = _stored_inputs(match, hashes[match.depth + 1 :])
    if match is not None and known is not None:
        conversation_pk, parent_pk, depth = match.conversation_pk, match.pk, match.depth + 1
        for known_pk in known:
            parent_pk, depth = known_pk, depth + 1
        if depth == len(messages):
            return Place(conversation_pk, parent_pk)
    else:
        conversation_pk = _begin_conversation(user_id, api_key_id, messages, now)
        parent_pk, depth = None, 0

    created = []
    for pk, message, chain_hash in zip(
        _reserve_message_pks(len(messages) - depth), messages[depth:], hashes[depth:], strict=True
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
    rows.insert_all(created)
    return Place(conversation_pk, created[-1].pk)


def put_answers(
    completion_pk: int,
    head_pk: int,
    choices: Sequence[ChoiceEnd],
    now: datetime,
    *,
    is_whole: bool,
    ended_before: bool,
) -> None:
    """One assistant message per choice below the completion's head; a choice that already has one
    (if the same completion `ended_before`) gets its text. The completion is locked.

    An empty text is an answer only if it `is_whole`.
    """
    head = rows.read(Message, head_pk, "conversation", "depth", "chain_hash")
    if head is None:
        raise ValueError("a completion without a head has no place in a tree")
    conversation_pk, depth, chain_hash = head
    stored = _stored_answers(completion_pk) if ended_before else {}
    created = []
    for choice in choices:
        if not (choice.index in stored or choice.text or is_whole):
            continue
        said = {
            "content": choice.text,
            "finish_reason": choice.finish_reason or "",
            "chain_hash": chain.link(chain_hash, "assistant", "", choice.text),
        }
        if choice.index in stored:
            rows.update(Message, stored[choice.index], **said)
            continue
        created.append(
            Message(
                conversation_id=conversation_pk,
                parent_id=head_pk,
                depth=depth + 1,
                role="assistant",
                completion_id=completion_pk,
                choice_index=choice.index,
                created_at=now,
                **said,
            )
        )
    rows.insert_all(created)


def title_of(messages: Sequence[NewMessage]) -> str:
    """The first user message's words, shortened to 80 characters; "" if it has none."""
    first = next((m for m in messages if m.role == "user"), messages[0])
    words = " ".join(text_of(first.content)[: 20 * TITLE_LENGTH].split())
    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"


def text_of(content: JSONValue) -> str:
    """The text of a message's content: the string itself, or the texts of its parts, one a line."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def _deepest_answer(messages: Sequence[NewMessage], hashes: Sequence[str]) -> Match | None:
    """Only an assistant's words can have been generated here; the newest of equal answers wins."""
    candidates = [h for m, h in zip(messages, hashes, strict=True) if m.role == "assistant"]
    for wanted in _in_portions(candidates[::-1]):
        found = (
            Message.objects.filter(chain_hash__in=wanted, choice_index__isnull=False)
            .order_by("-depth", "-pk")
            .values_list("pk", "conversation_id", "depth")
            .first()
        )
        if found is not None:
            return Match(*found)
    return None


def _lock_conversation(conversation_pk: int, user_id: int) -> bool:
    """False if it is gone or another user's (the hashes are salted by user; this is the second
    door). Two calls that continue one conversation at once place their input in turn."""
    conversations = Conversation.objects.select_for_update(no_key=True)
    return bool(conversations.filter(pk=conversation_pk, user_id=user_id).values_list("pk"))


def _stored_inputs(match: Match, hashes: Sequence[str]) -> list[int] | None:
    """The primary keys of those inputs that are stored already: a beginning of `hashes`, for a hash
    is stored only below its parent. None: the match itself was erased before the lock was ours.
    """
    known: list[int] = []
    for wanted in list(_in_portions(hashes)) or [()]:
        found = list(
            Message.objects.filter(
                Q(chain_hash__in=wanted, choice_index__isnull=True) | Q(pk=match.pk),
                conversation_id=match.conversation_pk,
            ).values_list("pk", "chain_hash", "choice_index")
        )
        if match.pk not in {pk for pk, _, _ in found}:
            return None
        stored = {chain_hash: pk for pk, chain_hash, index in found if index is None}
        for chain_hash in wanted:
            if chain_hash not in stored:
                return known
            known.append(stored[chain_hash])
    return known


def _stored_answers(completion_pk: int) -> dict[int, int]:
    """{choice's index: primary key of its message}"""
    answers = Message.objects.filter(completion=completion_pk)
    return {
        index: pk for pk, index in answers.values_list("pk", "choice_index") if index is not None
    }


def _begin_conversation(
    user_id: int, api_key_id: int | None, messages: Sequence[NewMessage], now: datetime
) -> int:
    return rows.insert(
        Conversation(
            user_id=user_id,
            api_key_id=api_key_id,
            title=title_of(messages),
            created_at=now,
            updated_at=now,
        )
    )


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


def _in_portions(hashes: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(hashes), HASHES_PER_QUERY):
        yield hashes[start : start + HASHES_PER_QUERY]
