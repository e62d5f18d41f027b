"""How rows come into a file: in portions, in constant memory, each query a short one. An export of
hours holds no transaction open."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from conversations.storage.portions import in_portions, keys_in_portions

KEYS_AT_ONCE = 50_000
"""Primary keys come in large portions, for each of these walks the filter's rows anew."""


def portions(rows: QuerySet[Any], size: int) -> Iterator[Sequence[int]]:
    """Primary keys of `rows` in their order, so many at once."""
    for pks in keys_in_portions(rows.prefetch_related(None), KEYS_AT_ONCE):
        yield from in_portions(pks, size)


def as_text(time: datetime | None) -> str | None:
    """As a file says a time."""
    return time.isoformat(timespec="milliseconds") if time else None
