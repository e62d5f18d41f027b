"""Long lists a page at a time, the newest first, by an index on their time: the thousandth page
costs what the first does, and nobody counts the rows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

SIZE = 25
WINDOW = 2000
"""So many rows are looked through for one page at most, where an index does not find them."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_US = 10**17  # in the year 5138


@dataclass(frozen=True, slots=True)
class Page:
    """older, newer: what to ask for next, "" where nothing is. looked_until: where a search ended
    that may go on by `older`; None if it went through to the last row or filled the page."""

    rows: list[Any]
    older: str = ""
    newer: str = ""
    looked_until: datetime | None = None


def page(
    rows: QuerySet[Any],
    field: str,
    *,
    older: str = "",
    newer: str = "",
    matching: Q | None = None,
) -> Page:
    """Those of `rows` that come after the cursor `older`, or before `newer`; without one, or with
    one that nobody gave out, the newest.

    field: the time that they are listed by, with an index that ends with it. matching: a condition
    that has no index. It is tried on WINDOW rows, so that a page may come out short, or empty, with
    more to be found by `older`.
    """
    start = _parsed(newer) or _parsed(older)
    if start is None:
        older = newer = ""
    elif newer:
        older = ""
    order = (field, "pk") if newer else (f"-{field}", "-pk")
    step = "gt" if newer else "lt"
    near = rows.order_by(*order)
    if start is not None:
        at, public_id = start
        # A row's primary key is nobody's business: the cursor has its public id.
        same = rows.model._default_manager.filter(public_id=public_id).values("pk")[:1]
        near = near.filter(_beyond(field, step, at, same))
    end = None
    if matching is not None:
        edge = list(near.values_list(field, "pk", "public_id")[WINDOW - 1 : WINDOW])
        if edge:
            at, pk, public_id = edge[0]
            end = (at, _cursor(at, public_id))
            # Back to that row, itself included.
            back, before = ("lt", pk + 1) if newer else ("gt", pk - 1)
            near = near.filter(_beyond(field, back, at, before))
        near = near.filter(matching)
    found = list(near[: SIZE + 1])
    has_more = len(found) > SIZE
    found = found[:SIZE]
    if newer:
        if not has_more and end is None:
            return page(rows, field, matching=matching)  # the first page, and a full one
        found.reverse()

    def cursor_of(row: Any) -> str:
        return _cursor(getattr(row, field), row.public_id)

    beyond = end[1] if end else ""
    if newer:
        return Page(
            found,
            older=cursor_of(found[-1]) if found else newer,
            newer=cursor_of(found[0]) if has_more else beyond,
        )
    return Page(
        found,
        older=cursor_of(found[-1]) if has_more else beyond,
        newer=(cursor_of(found[0]) if found else older) if older else "",
        looked_until=end[0] if end and not has_more else None,
    )


def _beyond(field: str, step: str, at: datetime, pk: Any) -> Q:
    """Rows after (`lt`) or before (`gt`) the one of this time and primary key. The first condition
    says nothing new, but it is the one that an index can begin with."""
    return Q(**{f"{field}__{step}e": at}) & (
        Q(**{f"{field}__{step}": at}) | Q(**{f"pk__{step}": pk})
    )


def _cursor(at: datetime, public_id: str) -> str:
    return f"{(at - EPOCH) // timedelta(microseconds=1)}-{public_id}"


def _parsed(cursor: str) -> tuple[datetime, str] | None:
    """None for a text that is no cursor."""
    number, _, public_id = cursor.partition("-")
    if not (number.isascii() and number.isdecimal() and len(number) <= 17):
        return None
    return EPOCH + timedelta(microseconds=min(int(number), LATEST_US)), public_id
