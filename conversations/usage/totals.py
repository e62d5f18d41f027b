"""What was used: by whom, of which model, in which hour or day. Nothing here writes.

Folded hours (`UsageHour`) and, after them, the completions themselves: each request is counted
once, in the hour in which it began. Where whole days tell enough, folded days (`UserDay`,
`ModelDay`) stand for their hours. Hours and days are those of UTC.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

from django.db.models import Case, Count, IntegerField, QuerySet, When
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

Width = Literal["hour", "day"]
Group = Literal["user", "api_key", "model", "kind"]
WIDTHS: dict[Width, timedelta] = {"hour": HOUR, "day": DAY}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Whose usage, between which times, summed up how.

    Times are taken as whole hours: `start` is rounded down, `end` (exclusive) up. width: a bucket;
    None: the whole time is one. users, keys: primary keys; None restricts nothing. A user's
    requests without a key (the anonymous user's) are in no list of keys.
    """

    start: datetime
    end: datetime
    width: Width | None = None
    group_by: tuple[Group, ...] = ()
    users: Collection[int] | None = None
    keys: Collection[int] | None = None
    models: Collection[str] | None = None
    kinds: Collection[str] | None = None


@dataclass(slots=True, kw_only=True)
class Usage:
    """Sums. Tokens: of prompts (`cached_tokens` of them not computed again) and of answers.

    failed: those that the server's end interrupted too. Times: milliseconds, summed up over the
    `durations` requests and `first_tokens` answers that have one.
    """

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    duration_ms: int = 0
    durations: int = 0
    first_token_ms: int = 0
    first_tokens: int = 0

    def add(self, other: "Usage") -> None:
        for name in NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def mean_duration_ms(self) -> float | None:
        return self.duration_ms / self.durations if self.durations else None

    @property
    def mean_first_token_ms(self) -> float | None:
        return self.first_token_ms / self.first_tokens if self.first_tokens else None


NAMES = tuple(field.name for field in fields(Usage))


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One bucket of one group. `group`: {name: value} as in the query's `group_by`; users and keys
    by their primary keys, a key of None for requests without one."""

    start: datetime
    group: dict[Group, Any]
    usage: Usage


def usage(query: UsageQuery) -> list[UsageRow]:
    """Buckets in order of time, and within one the groups in order of their values; without those
    in which nothing happened. Six short queries at most."""
    start = hour_of(query.start)
    sums: dict[tuple[Any, ...], Usage] = {}
    for part in _parts(query):
        for row in _grouped(part, query):
            key = (row.get("bucket") or start, *(row[name] for name in query.group_by))
            used = Usage(**{name: row[f"sum_{name}"] for name in NAMES})
            sums.setdefault(key, Usage()).add(used)
    ordered = sorted(sums, key=lambda key: (key[0], *(_sortable(value) for value in key[1:])))
    return [
        UsageRow(key[0], dict(zip(query.group_by, key[1:], strict=True)), sums[key])
        for key in ordered
    ]


def active_users(starts: Sequence[datetime], end: datetime) -> list[int]:
    """How many users asked for anything from each of these times, which are whole hours in order,
    to the next one; from the last, to `end`. Far cheaper than `usage` by user, for there is nothing
    to sum up."""
    are_days = all(start == day_of(start) for start in starts) and all(
        after - before == DAY for before, after in pairwise(starts)
    )
    query = UsageQuery(
        start=starts[0], end=end, width="day" if are_days else "hour", group_by=("user",)
    )
    counts = dict.fromkeys(starts, 0)
    users: dict[datetime, set[int]] = defaultdict(set)
    for part in _parts(query):
        if part.time == "day":  # a row for each user
            counts |= dict(part.rows.order_by().values_list("day").annotate(Count("user")))
            continue
        numbered = part.rows.annotate(bucket=part.number_of_bucket(starts)).order_by()
        for number, user in numbered.values_list("bucket", "user").distinct():
            users[starts[number]].add(user)
    counts |= {start: len(active) for start, active in users.items()}
    return [counts[start] for start in starts]


def total(rows: Iterable[UsageRow]) -> Usage:
    """All rows together."""
    together = Usage()
    for row in rows:
        together.add(row.usage)
    return together


def bucket_start(time: datetime, width: Width) -> datetime:
    """When the bucket began in which `time` is."""
    return hour_of(time) if width == "hour" else day_of(time)


# ---- queries -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
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


def _parts(query: UsageQuery) -> Iterator[_Part]:
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
            yield _Part(rows, "day", SUMS_OF_HOURS)
    for from_hour, to_hour in ((start, days_start), (days_end, hours_end)):
        if from_hour < to_hour:
            hours = UsageHour.objects.filter(hour__gte=from_hour, hour__lt=to_hour)
            yield _Part(hours, "hour", SUMS_OF_HOURS)
    if hours_end < end:
        yield _Part(begun_within(hours_end, end), "created_at", SUMS_OF_GROUPS)


def _days_for(query: UsageQuery) -> Any:
    """The model of days that tell what is asked, if one does: they know either users or models, no
    keys and no hours."""
    asked: set[str] = {*query.group_by}
    asked |= {field for field, wanted in _restrictions(query) if wanted is not None}
    if query.width == "hour":
        return None
    return next((days for days, names in GROUPS_OF_DAYS.items() if asked <= {*names}), None)


def _restrictions(query: UsageQuery) -> list[tuple[str, Collection[Any] | None]]:
    return [
        ("user", query.users),
        ("api_key", query.keys),
        ("model", query.models),
        ("kind", query.kinds),
    ]


def _grouped(part: _Part, query: UsageQuery) -> Iterable[dict[str, Any]]:
    rows = part.rows
    for field, wanted in _restrictions(query):
        if wanted is not None:
            rows = rows.filter(**{f"{field}__in": wanted})
    names: list[str] = list(query.group_by)
    if query.width is not None:
        rows = rows.annotate(bucket=part.bucket(query.width))
        names.append("bucket")
    if not names:
        return [rows.aggregate(**part.sums)] if rows.exists() else []
    return rows.order_by().values(*names).annotate(**part.sums)


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


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)
