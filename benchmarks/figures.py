"""Numbers to rows, and rows to tables."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def percentiles_ms(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """`{name}_p50_ms`, `_p95_ms` and `_p99_ms`."""
    return {
        f"{name}_p{round(share * 100)}_ms": percentile(seconds, share) * 1000
        for share in (0.5, 0.95, 0.99)
    }


def median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers stand to the right."""
    shown = [[shown_value(value) for value in row] for row in rows]
    columns = list(zip(head, *shown, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(is_number(text) for text in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(cells, widths, right, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = ("-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True))
    return "\n".join([line(head), "| " + " | ".join(rule) + " |", *map(line, shown)])


def shown_value(value: Any) -> str:
    """Three digits are all that such a measurement is worth."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def is_number(text: str) -> bool:
    return text == "-" or text.strip(" x%").replace(",", "").replace(".", "", 1).isdigit()
