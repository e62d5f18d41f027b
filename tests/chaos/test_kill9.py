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


def campaigns(servers, folder, kills) -> dict[str, Report]:
    """Alone, and with a second web process alive; at the same time, for most of it is waiting for
    starts."""
    alone = servers(port=free_port())
    accompanied = servers(port=free_port())
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


KILLS = 5
"""Of each campaign: ten in all. Each costs a start, so seconds of both cores."""


@pytest.fixture(scope="module")
def ten_kills(module_servers, tmp_path_factory):
    return campaigns(module_servers, tmp_path_factory.mktemp("ledgers"), KILLS)


def test_kills_lose_nothing_that_was_accepted_and_leave_nothing_running(ten_kills):
    report = ten_kills["alone"]
    print(report)
    assert len(report.kills) == KILLS
    assert {"web", "web and engine"} == set(report.kills)
    assert len(report.ledger.finished) < len(report.ledger.told), "no kill hit a request"
    assert not report.violations, str(report)


def test_beside_a_living_web_process_the_same_and_its_rows_stay_untouched(ten_kills):
    report = ten_kills["accompanied"]
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


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("slow_echo", set()),
        ("done_before_commit", {"finished_is_completed_with_its_text"}),
        ("accepted_before_commit", {"accepted_is_one_row"}),
        ("text_cut_short", {"finished_is_completed_with_its_text"}),
        ("no_sweep", {"left_running", "nothing_is_running"}),
    ],
)
def test_the_ledger_finds_a_broken_build_and_passes_a_sound_one(new_server, tmp_path, name, rules):
    server = new_server(port=free_port(), **variant(name))
    wait = {"reconcile_s": 0.5} if name == "no_sweep" else {}
    report = run_campaign(
        server, tmp_path, kills=1, seed=3, engine_too=False, mid_stream=True, **wait
    )
    print(report)
    assert {violation.rule for violation in report.violations} >= rules
    assert bool(report.violations) == bool(rules), str(report)


def test_the_ledger_finds_a_server_that_sweeps_the_living(new_server, tmp_path):
    server = new_server(port=free_port(), **variant("sweeps_the_living"))
    bystander = beside(new_server, server, **variant("slow_echo"))
    report = run_campaign(server, tmp_path, kills=1, seed=4, bystander=bystander, engine_too=False)
    print(report)
    assert "still_alive" in {violation.rule for violation in report.violations}
