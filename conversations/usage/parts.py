"""Where each request of a time is counted: in a folded day, a folded hour, or by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db.models import Case, IntegerField, QuerySet, When
from django.db.models.functions import TruncDay, TruncHour

from conversations.models import UsageHour
from conversations.usage.folding import (
    DAY,
    GROUPS_OF_DAYS,
    HOUR,
    SUMS_OF_GROUPS,
    SUMS_OF_HOURS,
    begun_within,
    day_of,
    days_folded_until,
    folded_until,
    hour_of,
)
from conversations.usage.query import UsageQuery, Width


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one table that are to be summed up. time: the column that says when."""

    rows: QuerySet[Any]
    time: Literal["day", "hour", "created_at"]
    sums: dict[str, Any]

    def bucket(self, width: Width) -> Any:
        return (_Hour if width == "hour" else _Day)(self.time, tzinfo=UTC)

    def number_of_bucket(self, starts: Sequence[datetime]) -> Any:
        """0 for what is before the second of these times, 1 for what is before the third, ..."""
        before = (
            When(**{f"{self.time}__lt": stop}, then=number)
            for number, stop in enumerate(starts[1:])
        )
        return Case(*before, default=len(starts) - 1, output_field=IntegerField())


def parts(query: UsageQuery) -> Iterator[Part]:
    """What holds each request of the query's time once: whole days, if they tell enough, hours
    before and after them, and the completions after these. The ends of what is folded are taken
    once: a fold in between moves nothing across them."""
    start, end = hour_of(query.start), hour_of(query.end + HOUR - timedelta(microseconds=1))
    hours_end = min(max(folded_until() or start, start), end)
    days_start = days_end = start
    days = _days_for(query)
    if days is not None:
        first = day_of(start + DAY - timedelta(microseconds=1))
        last = min(days_folded_until() or first, day_of(hours_end))
        if first < last:
            days_start, days_end = first, last
            rows = days.objects.filter(day__gte=first, day__lt=last)
            yield Part(rows, "day", SUMS_OF_HOURS)
    for from_hour, to_hour in ((start, days_start), (days_end, hours_end)):
        if from_hour < to_hour:
            hours = UsageHour.objects.filter(hour__gte=from_hour, hour__lt=to_hour)
            yield Part(hours, "hour", SUMS_OF_HOURS)
    if hours_end < end:
        yield Part(begun_within(hours_end, end), "created_at", SUMS_OF_GROUPS)


def _days_for(query: UsageQuery) -> Any:
    """The model of days that tell what is asked, if one does: they know either users or models, no
    keys and no hours."""
    asked: set[str] = {*query.group_by, *query.restrictions}
    if query.width == "hour":
        return None
    return next((days for days, names in GROUPS_OF_DAYS.items() if asked <= {*names}), None)


class _Hour(TruncHour):
    """SQLite keeps times as text, in UTC: to cut it is a tenth of the work of parsing it, which
    Django would do in Python, once for each row."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        sql, params = compiler.compile(self.lhs)
        return f"substr({sql}, 1, 13) || ':00:00'", params


class _Day(TruncDay):
    """See `_Hour`."""

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        sql, params = compiler.compile(self.lhs)
        return f"substr({sql}, 1, 10) || ' 00:00:00'", params
