"""Ctrl-C while a server starts: it ends with one word, whatever is being imported meanwhile."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serve.server import ServerUnderTest, group_members, until


def maps(pid: int, library: str) -> bool:
    """Whether a process has opened this library. (One that ends meanwhile has not.)"""
    with suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text()
    return False


def reads_settings(server: ServerUnderTest) -> bool:
    return maps(server.pid, "pydantic_core")


def prepares_the_database(server: ServerUnderTest) -> bool:
    return "Preparing the database" in server.err


def spawns_the_engine(server: ServerUnderTest) -> bool:
    return len(group_members(server.pid)) > 2  # the third after multiprocessing's resource tracker


def engine_imports(server: ServerUnderTest) -> bool:
    others = group_members(server.pid) - {server.pid}
    return any(maps(pid, "libtorch") for pid in others)


def engine_loads(server: ServerUnderTest) -> bool:
    return server.engine_pid is not None


@pytest.mark.parametrize(
    "moment",
    [reads_settings, prepares_the_database, spawns_the_engine, engine_imports, engine_loads],
)
def test_ctrl_c_while_the_server_starts_says_stopped_and_nothing_else(new_server, moment):
    server = new_server()
    server.start()
    until(lambda: moment(server), moment.__name__)
    # To the whole group, as a terminal does.
    os.killpg(server.pid, signal.SIGINT)
    pid = server.pid
    assert server.running.wait(30) == 0
    until(lambda: group_members(pid) <= {pid}, "the engine ends too", 10)
    assert server.out == ""
    *progress, last = server.err.splitlines()
    assert last == "llmapi: Stopped."
    assert all(line.startswith("llmapi: ") for line in progress)
