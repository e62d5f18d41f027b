"""Who decodes in a step in which not all can. Knows no torch."""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as ListOf

from llmapi.engine.sequence import Family, Sequence

Unit = list[Sequence]
"""One sequence, or all beams of a search: those go on together."""


def in_turn(decoding: ListOf[Sequence], wanted: int, most: int) -> list[Sequence]:
    """About `wanted` of them, `most` at most: users in turn, who has fewest first, and of each user
    those that have waited longest. So a user with many has no more of the step than one with few,
    who has all that it wants."""
    chosen: list[Sequence] = []
    lines = sorted(lines_of(units_of(decoding)), key=len)
    while lines and len(chosen) < wanted:
        for line in lines:
            unit = line.popleft()
            if len(chosen) < wanted and len(chosen) + len(unit) <= most:
                chosen += unit
        lines = [line for line in lines if line]
    return chosen


def units_of(decoding: Iterable[Sequence]) -> list[Unit]:
    """Those first that decoded longest ago."""
    units: dict[Sequence | Family, Unit] = {}
    for sequence in sorted(decoding, key=lambda s: s.decoded_at):
        units.setdefault(sequence.family or sequence, []).append(sequence)
    return list(units.values())


def lines_of(units: Iterable[Unit]) -> Iterable[deque[Unit]]:
    """One for each user."""
    lines: dict[str, deque[Unit]] = {}
    for unit in units:
        lines.setdefault(unit[0].user, deque()).append(unit)
    return lines.values()
