"""What a user has used, as their usage page shows it: sums, charts over time, a line a group."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import ApiKey, User
from conversations.charts.chart import Chart, Series
from conversations.charts.spans import Span
from conversations.usage.totals import Usage, UsageRow, total, usage

By = Literal["model", "api_key"]
GROUPS: dict[str, tuple[By, Any]] = {
    "model": ("model", gettext_lazy("Model")),
    "key": ("api_key", gettext_lazy("Key")),
}
DEFAULT_GROUP = "model"

MOST_SERIES = 4
"""So many colours there are: the busiest groups have their own, all others share the last."""


SPANS = {
    "24h": Span(gettext_lazy("24 hours"), hours=1, count=24),
    "7d": Span(gettext_lazy("7 days"), hours=24, count=7),
    "30d": Span(gettext_lazy("30 days"), hours=24, count=30),
    "90d": Span(gettext_lazy("90 days"), hours=24, count=90),
}
DEFAULT_SPAN = "7d"


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


def report(user: User, chosen: Span, group: str) -> Report:
    """Five queries at most, however much there is."""
    now = timezone.now()
    starts = chosen.starts(now)
    by = GROUPS[group][0]
    rows = usage(chosen.query(now, group_by=(by,), users=[user.pk]))
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
    chosen: Span,
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

    def over_time(name: str, sums: Mapping[datetime, Usage], field: str) -> Series:
        nothing = Usage()
        return Series(name, [(at, getattr(sums.get(at, nothing), field)) for at in starts])

    def of_groups(field: str) -> list[Series]:
        return [over_time(name, values[name], field) for name in series]

    return [
        chosen.chart(_("Requests"), *of_groups("requests")),
        chosen.chart(_("Tokens"), *of_groups("total_tokens")),
        chosen.chart(
            _("Tokens in and out"),
            over_time(_("Tokens in"), together, "prompt_tokens"),
            over_time(_("Tokens out"), together, "completion_tokens"),
        ),
        chosen.chart(
            _("Failed and cancelled requests"),
            over_time(_("Failed"), together, "failed"),
            over_time(_("Cancelled"), together, "cancelled"),
        ),
    ]
