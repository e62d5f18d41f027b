"""What was used: by whom, of which model, in which hour or day. Nothing here writes.

Folded hours (`UsageHour`) and, after them, the completions themselves: each request is counted
once, in the hour in which it began. Where whole days tell enough, folded days (`UserDay`,
`ModelDay`) stand for their hours. Hours and days are those of UTC.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import pairwise
from typing import Any

from django.db.models import Count

from conversations.usage.folding import DAY, day_of, hour_of
from conversations.usage.parts import Part, parts
from conversations.usage.query import Group, UsageQuery


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
    for part in parts(query):
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
    for part in parts(query):
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


def _grouped(part: Part, query: UsageQuery) -> Iterable[dict[str, Any]]:
    rows = part.rows
    for field, wanted in query.restrictions.items():
        rows = rows.filter(**{f"{field}__in": wanted})
    names: list[str] = list(query.group_by)
    if query.width is not None:
        rows = rows.annotate(bucket=part.bucket(query.width))
        names.append("bucket")
    if not names:
        return [rows.aggregate(**part.sums)] if rows.exists() else []
    return rows.order_by().values(*names).annotate(**part.sums)


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)
