"""Starting and ending real processes."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from benchmarks.model import PROJECT
from benchmarks.servers import NotStarted, Server, answers, started

WEB = ["{PYTHON}", "-m", "http.server", "{PORT}", "--bind", "127.0.0.1", "--directory", "{TMP}"]
SETTINGS = {"PYTHON": sys.executable}

UNTIL_TERMINATED = f"""
import time
from benchmarks.servers import Server, started
with started(Server("web", "m", {WEB!r}, ready="/"), {SETTINGS!r}) as running:
    print(running.url, flush=True)
    time.sleep(60)
"""


def test_a_server_runs_inside_the_block_and_not_after_it() -> None:
    with started(Server("web", "m", WEB, ready="/"), SETTINGS) as running:
        assert answers(running.url + "/empty.env")
        assert running.key is None
    assert not answers(running.url + "/")


def test_a_server_that_ends_while_it_starts_says_why() -> None:
    says = ["{PYTHON}", "-c", "import sys; sys.exit('no such flag')"]
    with (
        pytest.raises(NotStarted, match="no such flag"),
        started(Server("web", "m", says), SETTINGS),
    ):
        pass


def test_a_terminated_benchmark_leaves_no_server_behind() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UNTIL_TERMINATED], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as benchmark:
        try:
            assert benchmark.stdout is not None
            url = benchmark.stdout.readline().strip()
            assert answers(url + "/")
            os.kill(benchmark.pid, signal.SIGTERM)
            assert benchmark.wait(60) == 128 + signal.SIGTERM
        finally:
            with suppress(ProcessLookupError):
                benchmark.kill()
    assert not answers(url + "/")
