"""Numbers to rows, and rows to tables."""

import math

import pytest

from benchmarks.figures import markdown, median, percentile, percentiles_ms


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)]
)
def test_a_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


def test_few_values_give_their_largest_as_p95_and_none_give_nan() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert math.isnan(percentile([], 0.5))


def test_percentiles_are_named_and_in_milliseconds() -> None:
    assert percentiles_ms("gap", [0.25]) == {
        "gap_p50_ms": 250.0,
        "gap_p95_ms": 250.0,
        "gap_p99_ms": 250.0,
    }


def test_a_median_leaves_out_what_was_not_measured() -> None:
    assert median([math.nan, 1.0, 3.0]) == 2.0
    assert math.isnan(median([]))


def test_a_table_has_numbers_on_the_right_in_three_digits() -> None:
    rows = [["a", 1234.5, 1234], ["bb", 12.34, 5], ["c", 0.567, 6], ["d", math.nan, 7]]
    assert markdown(["name", "x", "n"], rows).splitlines() == [
        "| name |     x |     n |",
        "| ---- | ----: | ----: |",
        "| a    | 1,234 | 1,234 |",
        "| bb   |  12.3 |     5 |",
        "| c    |  0.57 |     6 |",
        "| d    |     - |     7 |",
    ]
