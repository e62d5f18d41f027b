"""A chart: series of numbers over time, and what there is to say of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.utils.translation import gettext as _

Kind = Literal["bars", "lines"]
Point = tuple[datetime, float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """(time, value) in order of time; None where there is none. All series of a chart have the same
    times."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Chart:
    """kind: bars of several series stand on each other. unit: after each number (`ms`, `tokens`).

    time_format: of `datetime.strftime`, for the axis; long_time_format: for the table.
    """

    title: str
    series: Sequence[Series]
    kind: Kind = "bars"
    unit: str = ""
    time_format: str = "%H:%M"
    long_time_format: str = "%Y-%m-%d %H:%M"

    @property
    def description(self) -> str:
        """A sentence for those who hear the page."""
        parts = []
        for series in self.series:
            values = [value for _, value in series.points if value is not None]
            if not values:
                parts.append(_("%(name)s: nothing") % {"name": series.name})
                continue
            highest = max(values)
            at = next(time for time, value in series.points if value == highest)
            most = {
                "name": series.name,
                "most": f"{number(highest)} {self.unit}".rstrip(),
                "time": at.strftime(self.long_time_format),
            }
            parts.append(_("%(name)s: at most %(most)s (%(time)s)") % most)
        return "; ".join(parts) + "."

    @property
    def is_empty(self) -> bool:
        return not any(value for series in self.series for _, value in series.points)

    @property
    def table(self) -> list[tuple[str, list[str]]]:
        """(time, one number for each series), the newest first."""
        times = [time for time, _ in self.series[0].points] if self.series else []
        rows = []
        for index, time in enumerate(times):
            values = [series.points[index][1] for series in self.series]
            shown = ["" if value is None else number(value) for value in values]
            rows.append((time.strftime(self.long_time_format), shown))
        return rows[::-1]


def number(value: float) -> str:
    """In three digits or so: 950, 1.2k, 34k, 5.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            part = value / size
            return f"{part:.1f}{letter}".replace(".0", "") if part < 10 else f"{part:.0f}{letter}"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 10 else f"{value:.1f}"
