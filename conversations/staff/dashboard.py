"""How the server does: figures of now and today, and charts over time."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.core.cache import cache
from django.db.models.functions import Now
from django.utils import timezone

from accounts.models import User
from conversations import reviews
from conversations.charts import Chart, Series
from conversations.models import Completion, ServerProcess
from conversations.processes.presence import HEARTBEAT_DEAD_AFTER_S
from conversations.usage.totals import (
    Usage,
    UsageQuery,
    Width,
    active_users,
    bucket_start,
    total,
    usage,
)

Name = TypeVar("Name")

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
    # A request that comes this very moment belongs to it too.
    span = UsageQuery(start=starts[0], end=now + timedelta(seconds=1), width=chosen.width)
    sums: dict[datetime, Usage] = defaultdict(Usage)
    models: dict[str, Usage] = defaultdict(Usage)
    for row in usage(replace(span, group_by=("model",))):  # one reading for both
        sums[chosen.start_of(row.start)].add(row.usage)
        models[row.group["model"]].add(row.usage)
    today = usage(replace(span, start=bucket_start(now, "day"), width=None, group_by=("user",)))
    return Figures(
        at=now,
        today=total(today),
        users_today=len(today),
        charts=_charts(chosen, starts, sums, active_users(starts, span.end)),
        users=_busiest_users(span),
        models=[Top(name, used, share) for name, used, share in _top(models)],
    )


def _charts(
    chosen: Range,
    starts: list[datetime],
    sums: dict[datetime, Usage],
    active: list[int],
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

    return [
        chart("Requests", series("requests", lambda used: used.requests)),
        chart(
            "Tokens",
            series("in", lambda used: used.prompt_tokens),
            series("out", lambda used: used.completion_tokens),
        ),
        chart("Active users", Series("active users", [*zip(starts, active, strict=True)])),
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


def _busiest_users(span: UsageQuery) -> list[Top]:
    rows = usage(replace(span, width=None, group_by=("user",)))
    top = _top({row.group["user"]: row.usage for row in rows})
    names = User.objects.in_bulk([pk for pk, _, _ in top])
    return [Top(names[pk].get_username(), used, share) for pk, used, share in top]


def _top(sums: Mapping[Name, Usage]) -> list[tuple[Name, Usage, int]]:
    """(name, sums, share of the first's tokens in percent) of the busiest, by tokens."""
    order = sorted(sums.items(), key=lambda pair: (-pair[1].total_tokens, -pair[1].requests))
    most = max((used.total_tokens for used in sums.values()), default=0) or 1
    return [(name, used, round(100 * used.total_tokens / most)) for name, used in order[:TOP]]
