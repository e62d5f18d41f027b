"""How the server does: figures of now and today, and charts over time."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from conversations import reviews
from conversations.charts import Chart, Series
from conversations.models import Completion, ServerProcess
from conversations.services import HEARTBEAT_DEAD_AFTER_S
from conversations.usage import Usage, UsageQuery, UsageRow, Width, bucket_start, total, usage

CACHED_S = 60
"""Sums over months are the same a moment later, and every sign-in of staff ends on this page."""

TOP = 8
UNREVIEWED_AT_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Range:
    """What the charts span: `count` buckets of `hours` each, the last of which is now."""

    name: str
    hours: int
    count: int
    time_format: str

    @property
    def width(self) -> Width:
        return "day" if self.hours == 24 else "hour"

    def start_of(self, time: datetime) -> datetime:
        """When the bucket began in which `time` is."""
        start = bucket_start(time, self.width)
        return start - timedelta(hours=start.hour % self.hours)

    def starts(self, now: datetime) -> list[datetime]:
        last = self.start_of(now)
        return [last - timedelta(hours=self.hours * n) for n in range(self.count - 1, -1, -1)]


RANGES = {
    "24h": Range("24 hours", 1, 24, "%H:%M"),
    "7d": Range("7 days", 6, 28, "%d %b"),
    "30d": Range("30 days", 24, 30, "%d %b"),
    "90d": Range("90 days", 24, 90, "%d %b"),
}
DEFAULT_RANGE = "24h"


@dataclass(frozen=True, slots=True)
class Top:
    """One line of a list of the busiest."""

    name: str
    usage: Usage
    share: int
    """Of the tokens of the first in the list, in percent."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What takes long to sum up. `at`: when it was."""

    at: datetime
    today: Usage
    users_today: int
    charts: list[Chart]
    users: list[Top]
    models: list[Top]


@dataclass(frozen=True, slots=True)
class Dashboard:
    chosen: str
    figures: Figures
    running: int
    processes: int
    unreviewed: str

    @property
    def ranges(self) -> list[tuple[str, str]]:
        return [(key, chosen.name) for key, chosen in RANGES.items()]

    @property
    def chosen_name(self) -> str:
        return RANGES[self.chosen].name


def dashboard(chosen: str | None) -> Dashboard:
    """For one of RANGES; for any other name, of the default. What runs now is of now; sums may be
    CACHED_S seconds old."""
    name = chosen if chosen in RANGES else DEFAULT_RANGE
    alive = ServerProcess.objects.filter(
        stopped_at=None, heartbeat_at__gte=Now() - timedelta(seconds=HEARTBEAT_DEAD_AFTER_S)
    )
    unreviewed = reviews.unreviewed_count(UNREVIEWED_AT_MOST + 1)
    known: Any = cache.get_or_set(f"dashboard-{name}", lambda: figures(RANGES[name]), CACHED_S)
    return Dashboard(
        chosen=name,
        figures=known,
        running=Completion.objects.filter(status=Completion.Status.RUNNING).count(),
        processes=alive.count(),
        unreviewed=(
            f"{UNREVIEWED_AT_MOST:,}+" if unreviewed > UNREVIEWED_AT_MOST else f"{unreviewed:,}"
        ),
    )


def figures(chosen: Range) -> Figures:
    now = timezone.now()
    starts = chosen.starts(now)
    rows = usage(
        UsageQuery(
            start=starts[0],
            # A request that comes this very moment belongs to it too.
            end=now + timedelta(seconds=1),
            width=chosen.width,
            group_by=("user", "model"),
        )
    )
    midnight = bucket_start(now, "day")
    today = usage(UsageQuery(start=midnight, end=now + timedelta(seconds=1), group_by=("user",)))
    sums, users = _buckets(chosen, rows)
    return Figures(
        at=now,
        today=total(today),
        users_today=len(today),
        charts=_charts(chosen, starts, sums, users),
        users=_named_users(_top(rows, "user")),
        models=[Top(str(name), used, share) for name, used, share in _top(rows, "model")],
    )


def _buckets(
    chosen: Range, rows: list[UsageRow]
) -> tuple[dict[datetime, Usage], dict[datetime, set[int]]]:
    """For each bucket's start: its sums, and who used it."""
    sums: dict[datetime, Usage] = defaultdict(Usage)
    users: dict[datetime, set[int]] = defaultdict(set)
    for row in rows:
        start = chosen.start_of(row.start)
        sums[start].add(row.usage)
        users[start].add(row.group["user"])
    return sums, users


def _charts(
    chosen: Range,
    starts: list[datetime],
    sums: dict[datetime, Usage],
    users: dict[datetime, set[int]],
) -> list[Chart]:
    def series(name: str, value: Callable[[Usage], float | None]) -> Series:
        return Series(name, [(start, value(sums[start])) for start in starts])

    def chart(title: str, *all_series: Series, lines: bool = False, unit: str = "") -> Chart:
        return Chart(
            title,
            all_series,
            kind="lines" if lines else "bars",
            unit=unit,
            time_format=chosen.time_format,
            long_time_format="%Y-%m-%d" if chosen.width == "day" else "%Y-%m-%d %H:%M",
        )

    active = Series("active users", [(start, len(users[start])) for start in starts])
    return [
        chart("Requests", series("requests", lambda used: used.requests)),
        chart(
            "Tokens",
            series("in", lambda used: used.prompt_tokens),
            series("out", lambda used: used.completion_tokens),
        ),
        chart("Active users", active),
        chart(
            "Errors",
            series("cancelled", lambda used: used.cancelled),
            series("failed", lambda used: used.failed),
        ),
        chart(
            "Time to first token, mean",
            series("time to first token", lambda used: used.mean_first_token_ms),
            lines=True,
            unit="ms",
        ),
        chart(
            "Duration of a request, mean",
            series("duration", lambda used: used.mean_duration_ms),
            lines=True,
            unit="ms",
        ),
    ]


def _top(rows: list[UsageRow], by: str) -> list[tuple[object, Usage, int]]:
    """(name, sums, share of the first's tokens in percent) of the busiest, by tokens."""
    sums: dict[object, Usage] = defaultdict(Usage)
    for row in rows:
        sums[row.group[by]].add(row.usage)  # type: ignore[index]
    ordered = sorted(sums.items(), key=lambda item: (-item[1].total_tokens, -item[1].requests))
    most = max(ordered[0][1].total_tokens, 1) if ordered else 1
    return [(name, used, round(100 * used.total_tokens / most)) for name, used in ordered[:TOP]]


def _named_users(top: list[tuple[object, Usage, int]]) -> list[Top]:
    names = User.objects.in_bulk([pk for pk, _, _ in top])
    return [Top(names[pk].get_username(), used, share) for pk, used, share in top]
