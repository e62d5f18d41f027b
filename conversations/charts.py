"""Bars and lines over time as inline SVG, drawn here: no script, no style but the stylesheet's.

The look is in `conversations/charts.css`, by the classes `chart-1`, `chart-2` and so on in the
order of the series. Beneath each drawing stand its numbers as a table, for those who do not see it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from django.template.loader import render_to_string
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

Kind = Literal["bars", "lines"]
Point = tuple[datetime, float | None]

WIDTH, HEIGHT = 390, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 4, 8, 22
ROWS = 4
LABEL_WIDTH = 64
"""What a label below the axis takes, with some room to the next."""


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
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def figure(self) -> SafeString:
        """All of it as HTML: title, legend, drawing and table."""
        return mark_safe(  # noqa: S308 - a template has escaped it
            render_to_string("conversations/chart.html", {"chart": self, "svg": _svg(self)})
        )

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


# ---- drawing -------------------------------------------------------------------------------------


def _svg(chart: Chart) -> SafeString:
    count = len(chart.series[0].points) if chart.series else 0
    top = _round_up(max(_totals(chart), default=0.0))
    floor = chart.height - BOTTOM

    def y(value: float) -> float:
        return round(floor - (floor - TOP) * value / top, 1)

    width = chart.width - LEFT - RIGHT
    step = width / max(count, 1)

    def x(index: int) -> float:
        return LEFT + step * (index + 0.5)

    parts = [*_rows(chart, top, y), *_times(chart, x, step)]
    if chart.kind == "bars":
        parts += _bars(chart, x, y, step)
    else:
        parts += [part for i, series in enumerate(chart.series) for part in _line(series, i, x, y)]
    return format_html(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}. {}">{}</svg>',
        chart.width,
        chart.height,
        chart.title,
        chart.description,
        format_html_join("", "{}", ((part,) for part in parts)),
    )


def _totals(chart: Chart) -> Iterable[float]:
    """How high the drawing gets at each time."""
    columns = zip(*(series.points for series in chart.series), strict=True)
    for column in columns:
        values = [value for _, value in column if value is not None]
        if values:
            yield sum(values) if chart.kind == "bars" else max(values)


def _round_up(value: float) -> float:
    """To a number that ROWS divide well: the axis ends there."""
    if value <= 0:
        return 1.0
    if value <= 3 * ROWS:
        return ROWS * math.ceil(value / ROWS)
    size = 10 ** math.floor(math.log10(value))
    return next(m * size for m in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if m * size >= value)


def _rows(chart: Chart, top: float, y: Callable[[float], float]) -> Iterable[SafeString]:
    for row in range(ROWS + 1 if top > 1 else 1):
        value = top * row / ROWS
        at = y(value)
        yield format_html(
            '<line class="chart-row" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            '<text class="chart-value" x="{}" y="{}" text-anchor="end">{}</text>',
            *(LEFT, chart.width - RIGHT, at, at, LEFT - 6, at + 3.5, number(value)),
        )


def _times(chart: Chart, x: Callable[[int], float], step: float) -> Iterable[SafeString]:
    """Below the axis: as many as there is room for, none twice."""
    points = chart.series[0].points if chart.series else []
    every = max(1, math.ceil(LABEL_WIDTH / step)) if step else 1
    before = ""
    for index in range(len(points) - 1, -1, -every):
        shown = points[index][0].strftime(chart.time_format)
        at = min(max(x(index), LEFT + 10), chart.width - RIGHT - 16)
        if shown != before and x(index) >= LEFT + 8:
            yield format_html(
                '<text class="chart-time" x="{}" y="{}" text-anchor="middle">{}</text>',
                *(round(at, 1), chart.height - 6, shown),
            )
        before = shown


def _bars(
    chart: Chart, x: Callable[[int], float], y: Callable[[float], float], step: float
) -> Iterable[SafeString]:
    width = max(step * 0.72, 1.0)
    bottoms = [0.0] * len(chart.series[0].points) if chart.series else []
    for number_of, series in enumerate(chart.series, start=1):
        for index, (time, value) in enumerate(series.points):
            if not value:
                continue
            low, high = y(bottoms[index]), y(bottoms[index] + value)
            bottoms[index] += value
            yield format_html(
                '<rect class="chart-{}" x="{}" y="{}" width="{}" height="{}">'
                "<title>{}: {} {} {}</title></rect>",
                number_of,
                *(round(x(index) - width / 2, 1), high, round(width, 1)),
                round(max(low - high, 0.8), 1),
                *(time.strftime(chart.long_time_format), number(value), chart.unit, series.name),
            )


def _line(
    series: Series, index_of: int, x: Callable[[int], float], y: Callable[[float], float]
) -> Iterable[SafeString]:
    """Broken where there is no value; a point that stands alone is a dot."""
    runs: list[list[str]] = [[]]
    for index, (_at, value) in enumerate(series.points):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{x(index):.1f},{y(value):.1f}")
    for run in runs:
        if len(run) == 1:
            across, down = run[0].split(",")
            yield format_html(
                '<circle class="chart-{}" cx="{}" cy="{}" r="2.5"/>', index_of + 1, across, down
            )
        elif run:
            yield format_html(
                '<polyline class="chart-{}" points="{}"/>', index_of + 1, " ".join(run)
            )
