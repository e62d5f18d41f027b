"""kill -9 at named points and at random times, on both databases, and the builds broken on purpose
that the same ledger must find out."""

import os
import sys
from pathlib import Path

from tests.chaos import check
from tests.chaos.__main__ import DATABASES, campaigns, servers_on
from tests.chaos.controls import CONTROLS, run_controls
from tests.reliability.finding import Finding

MOST_UNKEPT_S = 2.0
"""Texts are flushed every second, and that takes its time."""

KILLS = int(os.environ.get("KILLS", "100"))
"""On each database."""


def measure(folder: Path) -> Finding:
    reports = []
    for database in DATABASES:
        place = folder / database
        place.mkdir()
        with servers_on(database, place) as servers:
            reports += campaigns(servers, place, KILLS)
        print(f"{database}: {reports[-2]}\n{reports[-1]}", file=sys.stderr, flush=True)
    place = folder / "controls"
    place.mkdir()
    with servers_on("sqlite", place) as servers:
        tried = [c.is_caught_by(report) for c, report in run_controls(servers, place, CONTROLS)]
    harm = check.harm(violation for report in reports for violation in report.violations)
    accepted = sum(len(report.ledger.told) for report in reports)
    finished = sum(len(report.ledger.finished) for report in reports)
    points = {point for report in reports for point in report.points}
    unkept_s = max(report.unkept_s for report in reports)
    back_s = [seconds for report in reports for seconds in report.engine_back_s]
    return Finding(
        promise=f"kill -9 of web, engine or both, {KILLS} times on each database, at "
        f"{len(points)} named points and at random",
        aim="0 lost, duplicated, stuck, or with another text; every broken build is found out",
        seen=f"{sum(len(report.kills) for report in reports)} kills, {accepted} accepted, "
        f"{finished} finished, {accepted - finished} broken off; "
        + ", ".join(f"{count} {name}" for name, count in harm.items())
        + f"; of broken streams all is stored but the last {unkept_s:.1f} s at most; "
        f"engine back after {max(back_s):.1f} s at most; controls caught {sum(tried)} of "
        f"{len(tried)}",
        holds=not any(harm.values()) and all(tried) and unkept_s <= MOST_UNKEPT_S,
    )
