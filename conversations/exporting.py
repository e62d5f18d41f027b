"""The history as files: conversations as JSONL, requests as CSV. Line by line, in constant memory,
each query a short one: an export of hours holds no transaction open."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from conversations.models import Completion, Conversation, Message

# Primary keys come in large portions, for each of them walks the filter's rows anew; rows with
# their text come in small ones.
KEYS_AT_ONCE = 50_000
CONVERSATIONS_AT_ONCE = 20
COMPLETIONS_AT_ONCE = 500

COLUMNS = (
    "id",
    "kind",
    "status",
    "finish_reason",
    "user",
    "key",
    "key_id",
    "model",
    "adapter",
    "streamed",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "created_at",
    "finished_at",
    "first_token_ms",
    "duration_ms",
    "conversation",
    "request_id",
)


def conversations_jsonl(
    conversations: QuerySet[Conversation], *, for_owner: bool = False
) -> Iterator[str]:
    """One conversation a line, the oldest first. Those that are erased meanwhile are left out.

    for_owner: with the title, and without what staff think of it.
    """
    for pks in _portions(conversations, CONVERSATIONS_AT_ONCE):
        messages: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for message in (
            Message.objects.filter(conversation__in=pks)
            .select_related("completion", "parent")
            .only(
                *("public_id", "role", "name", "content", "finish_reason", "created_at"),
                *("conversation_id", "choice_index", "parent__public_id"),
                *("completion__public_id", "completion__model", "completion__status"),
            )
            .order_by("pk")
        ):
            messages[message.conversation_id].append(_message(message))
        for conversation in (
            Conversation.objects.filter(pk__in=pks)
            .select_related("user", "api_key", "review__reviewer")
            .prefetch_related("review__labels")
            .order_by("pk")
        ):
            line = _conversation(conversation, messages[conversation.pk])
            if for_owner:
                del line["review"]
                line["title"] = conversation.title
            yield _line(line)


def completions_jsonl(completions: QuerySet[Completion]) -> Iterator[str]:
    """One completion or embedding request a line, with its prompt and output, the oldest first.
    Chats, which are in conversations, are left out."""
    others = completions.exclude(kind=Completion.Kind.CHAT)
    for pks in _portions(others, CONVERSATIONS_AT_ONCE):
        for completion in (
            # Erased while this was going on: not there any more.
            Completion.objects.filter(pk__in=pks, erased_at=None)
            .select_related("api_key", "content")
            .order_by("pk")
        ):
            yield _line(_completion(completion))


def completions_csv(completions: QuerySet[Completion]) -> Iterator[str]:
    """A line of names, then one request a line, the oldest first: nothing of what was said."""
    yield _row(COLUMNS)
    for pks in _portions(completions, COMPLETIONS_AT_ONCE):
        for completion in (
            Completion.objects.filter(pk__in=pks)
            .select_related("user", "api_key", "conversation")
            .defer("error", "metadata", "conversation__title", "conversation__metadata")
            .order_by("pk")
        ):
            yield _row(_cells(completion))


def _portions(rows: QuerySet[Any], size: int) -> Iterator[list[int]]:
    """Primary keys of `rows` in their order, so many at once."""
    last_pk = 0
    ordered = rows.prefetch_related(None).order_by("pk").values_list("pk", flat=True)
    while True:
        pks = list(ordered.filter(pk__gt=last_pk)[:KEYS_AT_ONCE])
        for start in range(0, len(pks), size):
            yield pks[start : start + size]
        if len(pks) < KEYS_AT_ONCE:
            return
        last_pk = pks[-1]


# ---- JSONL ---------------------------------------------------------------------------------------


def _conversation(row: Conversation, messages: list[dict[str, Any]]) -> dict[str, Any]:
    review = getattr(row, "review", None)
    return {
        "id": row.public_id,
        "user": row.user.get_username(),
        "key": row.api_key.name if row.api_key else None,
        "created_at": _time(row.created_at),
        "updated_at": _time(row.updated_at),
        "metadata": row.metadata,
        "messages": messages,
        "review": review
        and {
            "reviewer": review.reviewer.get_username(),
            "score": review.score,
            "labels": sorted(label.name for label in review.labels.all()),
            "notes": review.notes,
            "updated_at": _time(review.updated_at),
        },
    }


def _message(row: Message) -> dict[str, Any]:
    """`parent` is the message that it answers or follows: siblings are other versions."""
    made = {}
    if row.completion is not None:
        made = {
            "completion": row.completion.public_id,
            "model": row.completion.model,
            "status": row.completion.status,
            "choice": row.choice_index,
            "finish_reason": row.finish_reason or None,
        }
    return {
        "id": row.public_id,
        "parent": row.parent.public_id if row.parent else None,
        "role": row.role,
        **({"name": row.name} if row.name else {}),
        "content": row.content,
        "created_at": _time(row.created_at),
        **made,
    }


def _completion(row: Completion) -> dict[str, Any]:
    content = getattr(row, "content", None)
    return {
        "id": row.public_id,
        "kind": row.kind,
        "key": row.api_key.name if row.api_key else None,
        "model": row.model,
        "status": row.status,
        "created_at": _time(row.created_at),
        "metadata": row.metadata,
        "parameters": content.parameters if content else {},
        "prompt": content.prompt if content else None,
        "output": content.output if content else [],
        "usage": {
            "prompt_tokens": row.prompt_tokens,
            "cached_tokens": row.cached_tokens,
            "completion_tokens": row.completion_tokens,
        },
        "error": row.error or None,
    }


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _time(time: datetime | None) -> str | None:
    return time.isoformat(timespec="milliseconds") if time else None


# ---- CSV -----------------------------------------------------------------------------------------


class _Line:
    """What csv writes to: the last line, alone."""

    text = ""

    def write(self, text: str) -> int:
        self.text = text
        return len(text)


def _row(cells: Sequence[Any]) -> str:
    line = _Line()
    csv.writer(line).writerow([_cell(cell) for cell in cells])
    return line.text


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets a ' before it."""
    if isinstance(value, str) and value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _cells(row: Completion) -> list[Any]:
    return [
        row.public_id,
        row.kind,
        row.status,
        row.finish_reason,
        row.user.get_username(),
        row.api_key.name if row.api_key else "",
        row.api_key.public_id if row.api_key else "",
        row.model,
        row.adapter,
        "yes" if row.streamed else "no",
        row.prompt_tokens,
        row.cached_tokens,
        row.completion_tokens,
        _time(row.created_at),
        _time(row.finished_at),
        row.first_token_ms,
        row.duration_ms,
        row.conversation.public_id if row.conversation else "",
        row.request_id,
    ]
