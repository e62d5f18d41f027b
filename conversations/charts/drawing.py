"""Charts as HTML: bars and lines as inline SVG, with no script and no style but the stylesheet's.

The look is in `conversations/charts.css`, by the classes `chart-1`, `chart-2` and so on in the
order of the series. Beneath each drawing stand its numbers as a table, for those who do not see it.
"""

import math
from collections.abc import Callable, Iterable

from django.template.loader import render_to_string
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from conversations.charts.chart import Chart, Series, number

WIDTH, HEIGHT = 390, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 4, 8, 22
ROWS = 4
LABEL_WIDTH = 64
"""What a label below the axis takes, with some room to the next."""


def figure(chart: Chart) -> SafeString:
    """All of it: title, legend, drawing and table."""
    html = render_to_string("conversations/chart.html", {"chart": chart, "svg": svg(chart)})
    return mark_safe(html)  # noqa: S308 - the template has escaped it


def svg(chart: Chart) -> SafeString:
    count = len(chart.series[0].points) if chart.series else 0
    top = _round_up(max(_totals(chart), default=0.0))
    floor = HEIGHT - BOTTOM

    def y(value: float) -> float:
        return round(floor - (floor - TOP) * value / top, 1)

    width = WIDTH - LEFT - RIGHT
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
        WIDTH,
        HEIGHT,
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
            *(LEFT, WIDTH - RIGHT, at, at, LEFT - 6, at + 3.5, number(value)),
        )


def _times(chart: Chart, x: Callable[[int], float], step: float) -> Iterable[SafeString]:
    """Below the axis: as many as there is room for, none twice."""
    points = chart.series[0].points if chart.series else []
    every = max(1, math.ceil(LABEL_WIDTH / step)) if step else 1
    before = ""
    for index in range(len(points) - 1, -1, -every):
        shown = points[index][0].strftime(chart.time_format)
        at = min(max(x(index), LEFT + 10), WIDTH - RIGHT - 16)
        if shown != before and x(index) >= LEFT + 8:
            yield format_html(
                '<text class="chart-time" x="{}" y="{}" text-anchor="middle">{}</text>',
                *(round(at, 1), HEIGHT - 6, shown),
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
