"""Servers killed with -9 at named points and at random times lose nothing that a client was told.

The client keeps a ledger in a process of its own; afterwards the ledger is held against the
database. Seeds are fixed; the moments are as random as the machine is. Here are a few kills and a
few broken builds; `make chaos` has a hundred on each database, and all of these builds.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos import check
from tests.chaos.campaign import Kill, Report, plan_of, run_campaign
from tests.chaos.controls import CONTROLS, ON_AN_ENGINE, QUICK, run_controls, variant
from tests.chaos.failpoints import POINTS
from tests.serve.server import free_port

WITH_AN_ENGINE = (
    Kill("both", "first_event_sent"),
    Kill("web", "sweep_one_committed"),
    Kill("engine"),
)
"""Each costs a start, so seconds of both cores."""

BESIDE_ANOTHER = (
    Kill("web", "start_before_commit"),
    Kill("web", "end_committed"),
    Kill("web", flushed=True),
)
"""Without engines, which have no part in whose rows are swept."""


@pytest.fixture(scope="module")
def reports(module_servers, tmp_path_factory) -> dict[str, Report]:
    """Both campaigns at the same time, for most of it is waiting for starts."""
    folder = tmp_path_factory.mktemp("ledgers")
    alone = module_servers(port=free_port(), **variant("sound", has_engine=True))
    accompanied = module_servers(port=free_port(), **variant("sound"))
    bystander = module_servers.beside(accompanied, **variant("sound"))
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run_campaign, alone, folder, WITH_AN_ENGINE, seed=1, asking=ON_AN_ENGINE)
        two = pool.submit(
            run_campaign, accompanied, folder, BESIDE_ANOTHER, seed=2, bystander=bystander
        )
        reports = {"alone": one.result(), "accompanied": two.result()}
    for server in (alone, accompanied, bystander):
        assert server.stop() == 0
    return reports


def test_kills_of_web_and_engine_lose_nothing_that_was_accepted_and_leave_nothing_running(reports):
    report = reports["alone"]
    print(report)
    assert {*report.kills} == {*WITH_AN_ENGINE, Kill("web")}
    assert report.ledger.broken, "no kill hit a request"
    assert not report.violations, str(report)


def test_beside_a_living_web_process_the_same_and_its_rows_stay_untouched(reports):
    report = reports["accompanied"]
    print(report)
    assert {*report.kills} >= {*BESIDE_ANOTHER}
    assert len(report.bystander.told) >= 2
    assert report.ledger.broken, "no kill hit a request"
    assert not report.violations, str(report)


# ---- the harness itself --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken_builds(module_servers, tmp_path_factory) -> dict[str, tuple[bool, Report]]:
    controls = [control for control in CONTROLS if control.name in QUICK]
    found = run_controls(module_servers, tmp_path_factory.mktemp("controls"), controls)
    return {control.name: (control.is_caught_by(report), report) for control, report in found}


@pytest.mark.parametrize("name", QUICK)
def test_the_ledger_finds_a_broken_build(broken_builds, name):
    is_caught, report = broken_builds[name]
    assert is_caught, str(report)


def test_a_long_plan_has_every_target_at_every_point_and_at_random_moments():
    plan = plan_of(100, has_bystander=False, seed=1)
    assert len(plan) == 100
    assert {kill.point for kill in plan} == {None, *POINTS}
    assert {kill.target for kill in plan if kill.point == "end_committed"} == {
        "web",
        "engine",
        "both",
    }
    assert {kill.target for kill in plan if kill.point is None} == {"web", "engine", "both"}


def test_every_rule_says_what_its_breach_amounts_to():
    rules = {rule.__name__ for rule in check.RULES}
    rules |= {rule for control in CONTROLS for rule in control.rules}
    assert rules <= {rule for rules in check.HARM.values() for rule in rules}
