"""What a user has used, as their usage page shows it: sums, charts over time, a line a group."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import ApiKey, User
from conversations.charts import Chart, Series
from conversations.usage.totals import (
    WIDTHS,
    Usage,
    UsageQuery,
    UsageRow,
    Width,
    bucket_start,
    total,
    usage,
)

By = Literal["model", "api_key"]
GROUPS: dict[str, tuple[By, Any]] = {
    "model": ("model", gettext_lazy("Model")),
    "key": ("api_key", gettext_lazy("Key")),
}
DEFAULT_GROUP = "model"

MOST_SERIES = 4
"""So many colours there are: the busiest groups have their own, all others share the last."""


@dataclass(frozen=True, slots=True)
class Range:
    name: Any
    width: Width
    count: int

    def starts(self, now: datetime) -> list[datetime]:
        """When each bucket begins; the last is the one that is now."""
        last = bucket_start(now, self.width)
        return [last - WIDTHS[self.width] * n for n in range(self.count - 1, -1, -1)]


RANGES = {
    "24h": Range(gettext_lazy("24 hours"), "hour", 24),
    "7d": Range(gettext_lazy("7 days"), "day", 7),
    "30d": Range(gettext_lazy("30 days"), "day", 30),
    "90d": Range(gettext_lazy("90 days"), "day", 90),
}
DEFAULT_RANGE = "7d"


@dataclass(frozen=True, slots=True)
class Line:
    """One group's sums. key: the key that they are of, if it has a page."""

    name: str
    usage: Usage
    key: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class Report:
    since: datetime
    total: Usage
    charts: list[Chart]
    lines: list[Line]

    @property
    def cached_percent(self) -> int:
        return round(100 * self.total.cached_tokens / (self.total.prompt_tokens or 1))

    @property
    def failed_percent(self) -> int:
        return round(100 * self.total.failed / (self.total.requests or 1))


def report(user: User, chosen: Range, group: str) -> Report:
    """Five queries at most, however much there is."""
    now = timezone.now()
    starts = chosen.starts(now)
    by = GROUPS[group][0]
    rows = usage(
        UsageQuery(
            start=starts[0],
            # A request that comes this very moment belongs to it too.
            end=now + timedelta(seconds=1),
            width=chosen.width,
            group_by=(by,),
            users=[user.pk],
        )
    )
    keys = _keys(rows) if by == "api_key" else {}
    names = {row.group[by]: _name(row.group[by], by, keys) for row in rows}
    sums: dict[str, Usage] = defaultdict(Usage)
    for row in rows:
        sums[names[row.group[by]]].add(row.usage)
    busiest = sorted(sums, key=lambda name: (-sums[name].total_tokens, -sums[name].requests, name))
    with_page = {names[pk]: key for pk, key in keys.items() if not key.for_playground}
    return Report(
        since=starts[0],
        total=total(rows),
        charts=_charts(chosen, starts, rows, by, names, busiest),
        lines=[Line(name, sums[name], with_page.get(name)) for name in busiest],
    )


def _keys(rows: list[UsageRow]) -> dict[Any, ApiKey]:
    return ApiKey.objects.in_bulk({row.group["api_key"] for row in rows} - {None})


def _name(value: Any, by: By, keys: Mapping[Any, ApiKey]) -> str:
    """Keys are told apart by what is shown of them; those of the playground, an hour each, are
    one."""
    if by != "api_key":
        return str(value)
    key = keys.get(value)
    if key is None:
        return _("without a key")
    if key.for_playground:
        return _("Playground")
    return f"{key.name} ({key.masked})" if key.name else key.masked


def _charts(
    chosen: Range,
    starts: list[datetime],
    rows: list[UsageRow],
    by: By,
    names: Mapping[Any, str],
    busiest: list[str],
) -> list[Chart]:
    series = busiest
    if len(busiest) > MOST_SERIES:
        series = [*busiest[: MOST_SERIES - 1], _("others")]
    values: dict[str, dict[datetime, Usage]] = {name: defaultdict(Usage) for name in series}
    together: dict[datetime, Usage] = defaultdict(Usage)
    for row in rows:
        name = names[row.group[by]]
        values[name if name in values else series[-1]][row.start].add(row.usage)
        together[row.start].add(row.usage)

    def chart(title: str, unit: str, lines: list[Series]) -> Chart:
        hourly = chosen.width == "hour"
        return Chart(
            title,
            lines,
            unit=unit,
            time_format="%H:%M" if hourly else "%m-%d",
            long_time_format="%Y-%m-%d %H:%M" if hourly else "%Y-%m-%d",
        )

    def over_time(name: str, sums: Mapping[datetime, Usage], field: str) -> Series:
        nothing = Usage()
        return Series(name, [(at, getattr(sums.get(at, nothing), field)) for at in starts])

    def of_groups(field: str) -> list[Series]:
        return [over_time(name, values[name], field) for name in series]

    ended_badly = [
        over_time(_("Failed"), together, "failed"),
        over_time(_("Cancelled"), together, "cancelled"),
    ]
    return [
        chart(_("Requests"), "", of_groups("requests")),
        chart(_("Tokens"), "", of_groups("total_tokens")),
        chart(
            _("Tokens in and out"),
            "",
            [
                over_time(_("Tokens in"), together, "prompt_tokens"),
                over_time(_("Tokens out"), together, "completion_tokens"),
            ],
        ),
        chart(_("Failed and cancelled requests"), "", ended_badly),
    ]
