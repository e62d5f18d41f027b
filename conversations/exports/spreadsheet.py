"""Requests as CSV: nothing of what was said, and nothing that a spreadsheet would run."""

import csv
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db.models import QuerySet

from conversations.exports.portions import as_text, portions
from conversations.models import Completion

AT_ONCE = 500
"""Rows in one portion."""

COLUMNS: dict[str, Callable[[Completion], Any]] = {
    "id": lambda row: row.public_id,
    "kind": lambda row: row.kind,
    "status": lambda row: row.status,
    "finish_reason": lambda row: row.finish_reason,
    "user": lambda row: row.user.get_username(),
    "key": lambda row: row.api_key.name if row.api_key else "",
    "key_id": lambda row: row.api_key.public_id if row.api_key else "",
    "model": lambda row: row.model,
    "adapter": lambda row: row.adapter,
    "streamed": lambda row: "yes" if row.streamed else "no",
    "prompt_tokens": lambda row: row.prompt_tokens,
    "cached_tokens": lambda row: row.cached_tokens,
    "completion_tokens": lambda row: row.completion_tokens,
    "created_at": lambda row: as_text(row.created_at),
    "finished_at": lambda row: as_text(row.finished_at),
    "first_token_ms": lambda row: row.first_token_ms,
    "duration_ms": lambda row: row.duration_ms,
    "conversation": lambda row: row.conversation.public_id if row.conversation else "",
    "request_id": lambda row: row.request_id,
}

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet takes for a formula."""


def completions_csv(completions: QuerySet[Completion]) -> Iterator[str]:
    """A line of names, then one request a line, the oldest first: nothing of what was said."""
    yield _row([*COLUMNS])
    for pks in portions(completions, AT_ONCE):
        for completion in (
            Completion.objects.filter(pk__in=pks)
            .select_related("user", "api_key", "conversation")
            .defer("error", "metadata", "conversation__title", "conversation__metadata")
            .order_by("pk")
        ):
            yield _row([value(completion) for value in COLUMNS.values()])


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
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULAS):
        return f"'{value}"
    return value
