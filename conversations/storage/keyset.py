"""Long lists by an index on their time: a page begins where another ended, so the thousandth costs
what the first does, and nobody counts the rows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet

Row = TypeVar("Row", bound=Model)

SIZE = 25
WINDOW = 2000
"""So many rows are looked through for one page at most, where an index does not find them."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_US = 10**17  # in the year 5138


def in_order(
    rows: QuerySet[Row],
    field: str,
    *,
    descending: bool,
    after: tuple[datetime, Any] | None = None,
) -> QuerySet[Row]:
    """By this time, those of one moment by their primary keys; only those that come after the row
    of this (time, primary key), if one is named."""
    sign, step = ("-", "lt") if descending else ("", "gt")
    if after is not None:
        rows = rows.filter(_beyond(field, step, *after))
    return rows.order_by(f"{sign}{field}", f"{sign}pk")


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
    one that nobody gave out, the newest. The newest come first.

    field: the time that they are listed by, with an index that ends with it. matching: a condition
    that has no index. It is tried on WINDOW rows, so that a page may come out short, or empty, with
    more to be found by `older`. Nobody is led by `newer` to a page that is empty, or to a short
    one at the beginning: the first page is shown in its place.
    """
    if place := _parsed(newer):
        found = _looked_through(rows, field, place, matching, descending=False)
        if found.rows and (found.are_more or found.end):
            return Page(
                found.rows[::-1],
                older=_cursor_of(found.rows[0], field),
                newer=_cursor_of(found.rows[-1], field) if found.are_more else found.end_cursor,
            )
    place = None if place else _parsed(older)
    found = _looked_through(rows, field, place, matching, descending=True)
    last = _cursor_of(found.rows[-1], field) if found.rows else ""
    first = _cursor_of(found.rows[0], field) if found.rows else older
    return Page(
        found.rows,
        older=last if found.are_more else found.end_cursor,
        newer=first if place else "",
        looked_until=found.end[0] if found.end and not found.are_more else None,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows in the order in which they were looked for. end: (time, public id) of the row where the
    window ended, None if the rows did."""

    rows: list[Any]
    are_more: bool
    end: tuple[datetime, str] | None

    @property
    def end_cursor(self) -> str:
        return _cursor(*self.end) if self.end else ""


def _looked_through(
    rows: QuerySet[Any],
    field: str,
    place: tuple[datetime, str] | None,
    matching: Q | None,
    *,
    descending: bool,
) -> _Found:
    """One page of the rows after this place: of those of a window, if there is a condition."""
    after = None
    if place is not None:
        at, public_id = place
        # A row's primary key is nobody's business: the cursor has its public id.
        after = at, rows.model._default_manager.filter(public_id=public_id).values("pk")[:1]
    near = in_order(rows, field, descending=descending, after=after)
    end = None
    if matching is not None:
        for at, pk, public_id in near.values_list(field, "pk", "public_id")[WINDOW - 1 : WINDOW]:
            end = at, public_id
            # Back to that row, itself included.
            step, before = ("gt", pk - 1) if descending else ("lt", pk + 1)
            near = near.filter(_beyond(field, step, at, before))
        near = near.filter(matching)
    found = list(near[: SIZE + 1])
    return _Found(found[:SIZE], len(found) > SIZE, end)


def _beyond(field: str, step: str, at: datetime, pk: Any) -> Q:
    """Rows after (`lt`) or before (`gt`) the one of this time and primary key. The first condition
    says nothing new, but it is the one that an index can begin with."""
    return Q(**{f"{field}__{step}e": at}) & (
        Q(**{f"{field}__{step}": at}) | Q(**{f"pk__{step}": pk})
    )


def _cursor_of(row: Any, field: str) -> str:
    return _cursor(getattr(row, field), row.public_id)


def _cursor(at: datetime, public_id: str) -> str:
    return f"{(at - EPOCH) // timedelta(microseconds=1)}-{public_id}"


def _parsed(cursor: str) -> tuple[datetime, str] | None:
    """None for a text that is no cursor."""
    number, _, public_id = cursor.partition("-")
    if not (number.isascii() and number.isdecimal() and len(number) <= 17):
        return None
    return EPOCH + timedelta(microseconds=min(int(number), LATEST_US)), public_id
