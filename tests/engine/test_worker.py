"""The process and its pipe."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from driving import Reference, Told, ask, some_prompt

from llmapi.engine.config import EngineConfig
from llmapi.engine.engine import Engine
from llmapi.engine.messages import (
    Abort,
    Figures,
    LoadFailed,
    LoadProgress,
    Ready,
    StepOutput,
)
from llmapi.engine.worker import Inbox, Outbox, run_worker, serve, worker_process

MORE_THAN_A_PIPE_HOLDS = 2**20
SPAWN = multiprocessing.get_context("spawn")


def config(directory: Path) -> EngineConfig:
    cache = str(directory / "cache")
    return EngineConfig(str(directory), cache, kv_cache_tokens=4096, threads=1, max_batch=4)


@contextmanager
def started(directory: Path) -> Iterator[tuple[Any, Connection]]:
    """An engine process, which is gone after the block whatever happened in it."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=worker_process, args=(theirs, config(directory)))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join()


def receive(conn: Connection, timeout_s: float = 60) -> Any:
    assert conn.poll(timeout_s), "the engine is silent"
    return conn.recv()


def until_ready(conn: Connection) -> Ready:
    while isinstance(message := receive(conn), LoadProgress):
        pass
    assert isinstance(message, Ready), message
    return message


def listen(conn: Connection, told: Told, until: Any) -> None:
    while not until():
        message = receive(conn)
        if not isinstance(message, Figures):
            assert isinstance(message, StepOutput)
            told.hear(message)


@pytest.fixture(scope="module")
def served(tiny_dir: Path) -> Iterator[tuple[Any, Connection]]:
    with started(tiny_dir) as (process, conn):
        until_ready(conn)
        yield process, conn
    assert process.exitcode == 0


def test_a_spawned_engine_answers_many_at_once(
    served: tuple[Any, Connection], reference: Reference
) -> None:
    _, conn = served
    told = Told()
    for index in range(6):
        conn.send(ask(f"r{index}", some_prompt(index, 10), max_tokens=12))
    listen(conn, told, lambda: len(told.finished) == 6)
    for index in range(6):
        expected, _ = reference.continue_text(some_prompt(index, 10), 12)
        assert told.text(f"r{index}") == expected
    assert told.steps[-1].running == 0


def test_an_abort_over_the_pipe_is_heard(served: tuple[Any, Connection]) -> None:
    _, conn = served
    told = Told()
    conn.send(ask("long", some_prompt(1, 10), max_tokens=900))
    listen(conn, told, lambda: len(told.steps) >= 3)
    conn.send(Abort("long"))
    conn.send(ask("next", some_prompt(2, 10), max_tokens=2))
    listen(conn, told, lambda: ("next", 0) in told.finished)
    assert ("long", 0) not in told.finished
    assert told.steps[-1].running == 0


def test_an_idle_engine_uses_no_processor_time(served: tuple[Any, Connection]) -> None:
    process, _ = served
    time.sleep(0.2)
    before = _cpu_seconds(process.pid)
    time.sleep(0.6)
    assert _cpu_seconds(process.pid) - before < 0.1


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ctrl_c_and_sigterm_do_not_end_the_engine(served: tuple[Any, Connection]) -> None:
    process, conn = served
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    told = Told()
    conn.send(ask("after", some_prompt(1, 4), max_tokens=3))
    listen(conn, told, lambda: ("after", 0) in told.finished)
    assert process.is_alive()


def test_the_process_is_gone_soon_after_the_pipe_closes_even_in_the_middle_of_work(
    tiny_dir: Path,
) -> None:
    with started(tiny_dir) as (process, conn):
        until_ready(conn)
        conn.send(ask("beams", some_prompt(1, 10), num_beams=4, max_tokens=400))
        for index in range(4):
            conn.send(ask(f"r{index}", some_prompt(index, 900), max_tokens=100))
        time.sleep(0.3)
        conn.close()
        began = time.monotonic()
        process.join(10)
        assert process.exitcode == 0
        assert time.monotonic() - began < 2


def test_a_model_that_cannot_be_loaded_is_reported_and_the_process_ends(tmp_path: Path) -> None:
    with started(tmp_path) as (process, conn):
        message = receive(conn)
        assert isinstance(message, LoadFailed)
        assert "has no config.json" in message.message
        process.join(10)
        assert process.exitcode == 0


def test_the_same_engine_runs_in_a_thread_and_ends_with_its_pipe(tiny_dir: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(
        target=run_worker, args=(theirs, config(tiny_dir)), kwargs={"exit_when_closed": False}
    )
    thread.start()
    until_ready(ours)
    told = Told()
    ours.send(ask("a", some_prompt(1, 4), max_tokens=3))
    listen(ours, told, lambda: ("a", 0) in told.finished)
    ours.send(ask("unfinished", some_prompt(1, 4), max_tokens=900))
    ours.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_reader_that_stops_reading_does_not_stop_the_engine(engine: Engine) -> None:
    ours, theirs = multiprocessing.Pipe()
    inbox, outbox = Inbox(theirs, on_close=lambda: None), Outbox(theirs)
    for index in range(20):
        engine.add(ask(f"r{index}", some_prompt(index, 3), max_tokens=400, logprobs=20))
    thread = threading.Thread(target=serve, args=(engine, inbox, outbox), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while engine.has_work:
        assert time.monotonic() < deadline, "it waits for somebody to read"
        time.sleep(0.01)
    told, size = Told(), 0
    while len(told.finished) < 20:
        assert ours.poll(60)
        message = ours.recv_bytes()
        size += len(message)
        if isinstance(output := pickle.loads(message), StepOutput):
            told.hear(output)
    assert size > MORE_THAN_A_PIPE_HOLDS
    ours.close()
    thread.join(10)
    assert not thread.is_alive()
    outbox.close()
