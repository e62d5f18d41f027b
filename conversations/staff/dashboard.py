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
from conversations.charts.chart import Chart, Series
from conversations.charts.spans import Span
from conversations.models import Completion, ServerProcess
from conversations.processes.presence import HEARTBEAT_DEAD_AFTER_S
from conversations.usage.query import UsageQuery, bucket_start
from conversations.usage.totals import Usage, active_users, total, usage

Name = TypeVar("Name")

CACHED_S = 60
"""Sums over months are the same a moment later, and every sign-in of staff ends on this page."""

TOP = 8
UNREVIEWED_AT_MOST = 10_000


SPANS = {
    "24h": Span("24 hours", hours=1, count=24),
    "7d": Span("7 days", hours=6, count=28),
    "30d": Span("30 days", hours=24, count=30),
    "90d": Span("90 days", hours=24, count=90),
}
DEFAULT_SPAN = "24h"


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
    def spans(self) -> list[tuple[str, str]]:
        return [(key, chosen.name) for key, chosen in SPANS.items()]

    @property
    def chosen_name(self) -> str:
        return SPANS[self.chosen].name


def dashboard(chosen: str | None) -> Dashboard:
    """For one of SPANS; for any other name, of the default. What runs now is of now; sums may be
    CACHED_S seconds old."""
    name = chosen if chosen in SPANS else DEFAULT_SPAN
    alive = ServerProcess.objects.filter(
        stopped_at=None, heartbeat_at__gte=Now() - timedelta(seconds=HEARTBEAT_DEAD_AFTER_S)
    )
    unreviewed = reviews.unreviewed_count(UNREVIEWED_AT_MOST + 1)
    known: Any = cache.get_or_set(f"dashboard-{name}", lambda: figures(SPANS[name]), CACHED_S)
    return Dashboard(
        chosen=name,
        figures=known,
        running=Completion.objects.filter(status=Completion.Status.RUNNING).count(),
        processes=alive.count(),
        unreviewed=(
            f"{UNREVIEWED_AT_MOST:,}+" if unreviewed > UNREVIEWED_AT_MOST else f"{unreviewed:,}"
        ),
    )


def figures(chosen: Span) -> Figures:
    now = timezone.now()
    starts = chosen.starts(now)
    asked = chosen.query(now)
    sums: dict[datetime, Usage] = defaultdict(Usage)
    models: dict[str, Usage] = defaultdict(Usage)
    for row in usage(replace(asked, group_by=("model",))):  # one reading for both
        sums[chosen.start_of(row.start)].add(row.usage)
        models[row.group["model"]].add(row.usage)
    today = usage(replace(asked, start=bucket_start(now, "day"), width=None, group_by=("user",)))
    return Figures(
        at=now,
        today=total(today),
        users_today=len(today),
        charts=_charts(chosen, starts, sums, active_users(starts, asked.end)),
        users=_busiest_users(asked),
        models=[Top(name, used, share) for name, used, share in _top(models)],
    )


def _charts(
    chosen: Span,
    starts: list[datetime],
    sums: dict[datetime, Usage],
    active: list[int],
) -> list[Chart]:
    def series(name: str, value: Callable[[Usage], float | None]) -> Series:
        return Series(name, [(start, value(sums[start])) for start in starts])

    return [
        chosen.chart("Requests", series("requests", lambda used: used.requests)),
        chosen.chart(
            "Tokens",
            series("in", lambda used: used.prompt_tokens),
            series("out", lambda used: used.completion_tokens),
        ),
        chosen.chart("Active users", Series("active users", [*zip(starts, active, strict=True)])),
        chosen.chart(
            "Cancelled and failed",
            series("cancelled", lambda used: used.cancelled),
            series("failed", lambda used: used.failed),
        ),
        chosen.chart(
            "Time to first token, mean",
            series("time to first token", lambda used: used.mean_first_token_ms),
            kind="lines",
            unit="ms",
        ),
        chosen.chart(
            "Duration of a request, mean",
            series("duration", lambda used: used.mean_duration_ms),
            kind="lines",
            unit="ms",
        ),
    ]


def _busiest_users(asked: UsageQuery) -> list[Top]:
    rows = usage(replace(asked, width=None, group_by=("user",)))
    top = _top({row.group["user"]: row.usage for row in rows})
    names = User.objects.in_bulk([pk for pk, _, _ in top])
    return [Top(names[pk].get_username(), used, share) for pk, used, share in top]


def _top(sums: Mapping[Name, Usage]) -> list[tuple[Name, Usage, int]]:
    """(name, sums, share of the first's tokens in percent) of the busiest, by tokens."""
    order = sorted(sums.items(), key=lambda pair: (-pair[1].total_tokens, -pair[1].requests))
    most = max((used.total_tokens for used in sums.values()), default=0) or 1
    return [(name, used, round(100 * used.total_tokens / most)) for name, used in order[:TOP]]
