"""What was used: by whom, of which model, in which hour or day. Nothing here writes.

Folded hours (`UsageHour`) and, after them, the completions themselves: each request is counted
once, in the hour in which it began. Hours and days are those of UTC.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db.models import QuerySet, Sum
from django.db.models.functions import TruncDay, TruncHour

from conversations.models import UsageHour
from conversations.usage.folding import HOUR, SUMS_OF_GROUPS, begun_within, folded_until, hour_of

Width = Literal["hour", "day"]
Group = Literal["user", "api_key", "model", "kind"]
WIDTHS: dict[Width, timedelta] = {"hour": HOUR, "day": timedelta(days=1)}


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
    in which nothing happened. Three queries."""
    start, end = hour_of(query.start), hour_of(query.end + HOUR - timedelta(microseconds=1))
    middle = min(max(folded_until() or start, start), end)
    hours = UsageHour.objects.filter(hour__gte=start, hour__lt=middle)
    sums: dict[tuple[Any, ...], Usage] = {}
    for rows, time, totals in (
        (hours, "hour", {f"sum_{name}": Sum(name) for name in NAMES}),
        (begun_within(middle, end), "created_at", SUMS_OF_GROUPS),
    ):
        for row in _grouped(rows, time, totals, query):
            key = (row.get("bucket") or start, *(row[name] for name in query.group_by))
            part = Usage(**{name: row[f"sum_{name}"] for name in NAMES})
            sums.setdefault(key, Usage()).add(part)
    ordered = sorted(sums, key=lambda key: (key[0], *(_sortable(value) for value in key[1:])))
    return [
        UsageRow(key[0], dict(zip(query.group_by, key[1:], strict=True)), sums[key])
        for key in ordered
    ]


def active_users(query: UsageQuery) -> dict[datetime, set[int]]:
    """{bucket: primary keys of those who asked for anything}, of a query with a width. Far cheaper
    than `usage` by user, for there is nothing to sum up."""
    assert query.width is not None
    start, end = hour_of(query.start), hour_of(query.end + HOUR - timedelta(microseconds=1))
    middle = min(max(folded_until() or start, start), end)
    hours = UsageHour.objects.filter(hour__gte=start, hour__lt=middle)
    trunc = _Hour if query.width == "hour" else _Day
    users: dict[datetime, set[int]] = {}
    for rows, time in ((hours, "hour"), (begun_within(middle, end), "created_at")):
        pairs = rows.annotate(bucket=trunc(time, tzinfo=UTC)).order_by()
        for bucket, user in pairs.values_list("bucket", "user").distinct():
            users.setdefault(bucket, set()).add(user)
    return users


def total(rows: Iterable[UsageRow]) -> Usage:
    """All rows together."""
    together = Usage()
    for row in rows:
        together.add(row.usage)
    return together


def bucket_start(time: datetime, width: Width) -> datetime:
    """When the bucket began in which `time` is."""
    hour = hour_of(time)
    return hour if width == "hour" else hour.replace(hour=0)


# ---- queries -------------------------------------------------------------------------------------


def _grouped(
    rows: QuerySet[Any], time: str, totals: dict[str, Any], query: UsageQuery
) -> Iterable[dict[str, Any]]:
    for field, wanted in (
        ("user", query.users),
        ("api_key", query.keys),
        ("model", query.models),
        ("kind", query.kinds),
    ):
        if wanted is not None:
            rows = rows.filter(**{f"{field}__in": wanted})
    names: list[str] = list(query.group_by)
    if query.width is not None:
        trunc = _Hour if query.width == "hour" else _Day
        rows = rows.annotate(bucket=trunc(time, tzinfo=UTC))
        names.append("bucket")
    if not names:
        return [rows.aggregate(**totals)] if rows.exists() else []
    return rows.order_by().values(*names).annotate(**totals)


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
