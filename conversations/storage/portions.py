"""Long lists of keys or hashes, so many of them in one query."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from django.db.models import QuerySet

Value = TypeVar("Value")

PER_QUERY = 500
"""Values in one query: below SQLite's limit of variables."""


def in_portions(values: Sequence[Value], size: int = PER_QUERY) -> Iterator[Sequence[Value]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def keys_in_portions(rows: QuerySet[Any], size: int) -> Iterator[list[int]]:
    """Primary keys of rows that disappear from the queryset while it is walked, or do not."""
    last_pk = 0
    while True:
        pks = list(rows.filter(pk__gt=last_pk).order_by("pk").values_list("pk", flat=True)[:size])
        if not pks:
            return
        yield pks
        last_pk = pks[-1]
