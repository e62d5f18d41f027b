"""Servers killed with -9 at random times lose nothing that a client was told.

The client keeps a ledger in a process of its own; afterwards the ledger is held against the
database. Seeds are fixed; the moments are as random as the machine is.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.campaign import Report, run_campaign
from tests.serve.server import free_port

ECHO = {"model": None, "flags": (), "LLMAPI_ENGINE": "echo"}


def variant(name):
    """Options of a server that runs tests/chaos/variant.py instead of manage.py."""
    return {**ECHO, "script": ("-m", "tests.chaos.variant", name)}


def beside(servers, server, **options):
    """A second server on the same database."""
    return servers(server.var_dir, database_url=server.database_url, **options)


def campaigns(servers, folder, kills, **accompanied_options) -> dict[str, Report]:
    """Alone, and with a second web process alive; at the same time, for most of it is waiting for
    starts."""
    alone = servers(port=free_port())
    accompanied = servers(port=free_port(), **accompanied_options)
    bystander = beside(servers, accompanied, **variant("slow_echo"))
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run_campaign, alone, folder, kills=kills, seed=1)
        two = pool.submit(
            run_campaign, accompanied, folder, kills=kills, seed=2, bystander=bystander
        )
        reports = {"alone": one.result(), "accompanied": two.result()}
    for server in (alone, accompanied, bystander):
        assert server.stop() == 0
    return reports


KILLS = 3
"""Of each campaign. Each costs a start, so seconds of both cores."""


@pytest.fixture(scope="module")
def six_kills(module_servers, tmp_path_factory):
    """The second campaign without engines, which have no part in whose rows are swept; in that of a
    hundred kills both have one."""
    folder = tmp_path_factory.mktemp("ledgers")
    return campaigns(module_servers, folder, KILLS, **variant("slow_echo"))


def test_kills_lose_nothing_that_was_accepted_and_leave_nothing_running(six_kills):
    report = six_kills["alone"]
    print(report)
    assert len(report.kills) == KILLS
    assert {"web", "web and engine"} == set(report.kills)
    assert len(report.ledger.finished) < len(report.ledger.told), "no kill hit a request"
    assert not report.violations, str(report)


def test_beside_a_living_web_process_the_same_and_its_rows_stay_untouched(six_kills):
    report = six_kills["accompanied"]
    print(report)
    assert len(report.kills) == KILLS
    assert len(report.bystander.told) >= 2
    assert len(report.ledger.finished) < len(report.ledger.told), "no kill hit a request"
    assert not report.violations, str(report)


@pytest.mark.slow
def test_a_hundred_kills(module_servers, tmp_path):
    for report in campaigns(module_servers, tmp_path, kills=100).values():
        print(report)
        assert not report.violations, str(report)


# ---- the harness itself: it passes a sound build and finds each broken one -----------------------

BUILDS = {
    "slow_echo": set(),
    "done_before_commit": {"finished_is_completed_with_its_text"},
    "accepted_before_commit": {"accepted_is_one_row"},
    "text_cut_short": {"finished_is_completed_with_its_text"},
    "no_sweep": {"left_running", "nothing_is_running"},
    "sweeps_the_living": {"still_alive"},
}
"""Each with the rules that the ledger must find broken."""


def one_kill(servers, folder, name) -> Report:
    server = servers(port=free_port(), **variant(name))
    options = {"kills": 1, "engine_too": False}
    if name == "sweeps_the_living":
        bystander = beside(servers, server, **variant("slow_echo"))
        return run_campaign(server, folder, seed=4, bystander=bystander, **options)
    wait = {"reconcile_s": 0.5} if name == "no_sweep" else {}
    return run_campaign(server, folder, seed=3, mid_stream=True, **options, **wait)


@pytest.fixture(scope="module")
def builds(module_servers, tmp_path_factory):
    """A campaign of each build, a few at a time: most of it is waiting."""
    with ThreadPoolExecutor(3) as pool:
        reports = {
            name: pool.submit(one_kill, module_servers, tmp_path_factory.mktemp(name), name)
            for name in BUILDS
        }
    return {name: report.result() for name, report in reports.items()}


@pytest.mark.parametrize("name", BUILDS)
def test_the_ledger_finds_a_broken_build_and_passes_a_sound_one(builds, name):
    report, rules = builds[name], BUILDS[name]
    print(report)
    assert {violation.rule for violation in report.violations} >= rules
    assert bool(report.violations) == bool(rules), str(report)
