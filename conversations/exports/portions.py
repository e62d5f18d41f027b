"""How rows come into a file: in portions, in constant memory, each query a short one. An export of
hours holds no transaction open."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

KEYS_AT_ONCE = 50_000
"""Primary keys come in large portions, for each of these walks the filter's rows anew."""


def portions(rows: QuerySet[Any], size: int) -> Iterator[list[int]]:
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


def as_text(time: datetime | None) -> str | None:
    """As a file says a time."""
    return time.isoformat(timespec="milliseconds") if time else None
