"""Threads without barriers: one that is away holds nobody up, and what it brings is not counted."""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from driving import make_engine, some_prompt

from llmapi.engine.native import library
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("team") / "late.so"
    native = library.SOURCES[0].parent
    flags = ["-O2", "-std=gnu11", "-fPIC", "-shared", "-pthread", f"-I{native}"]
    subprocess.run(["gcc", *flags, str(HERE / "late.c"), "-o", str(target)], check=True)
    built = ctypes.CDLL(str(target))
    built.late_run.argtypes = [ctypes.c_int64] * 5
    built.late_run.restype = ctypes.c_int64
    return built


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_piece_of_every_phase_is_done_once(
    late: ctypes.CDLL, threads: int, count: int
) -> None:
    assert late.late_run(threads, 2000, count, 0, 0) == 0


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize(("hold", "until"), [(1, 2), (3, 4), (3, 50), (1, 100)])
def test_nobody_waits_for_a_thread_that_is_away(
    late: ctypes.CDLL, threads: int, count: int, hold: int, until: int
) -> None:
    """The one that is away waits for the others to come to a later phase, so if they waited for
    it, this would not end."""
    assert late.late_run(threads, 100, count, hold, until) == 0


@pytest.mark.parametrize("values", [{}, {"load_in_8bit": True}])
def test_more_threads_than_cores_change_no_bit(tiny_dir: Path, values: dict[str, bool]) -> None:
    states = []
    for threads in (1, 9):
        engine = make_engine(tiny_dir, decoder="native", step_tokens=128, threads=threads, **values)
        network = engine.runner.network
        sequence = Sequence("", 0, "", 100, some_prompt(1, 100), None)
        sequence.blocks = list(range(1, 8))
        parts = [network.forward([Chunk(sequence, a, b - a)])[0] for a, b in ((0, 99), (99, 100))]
        states.append((torch.cat(parts), network.head(parts[-1])))
    assert all(map(torch.equal, *states))
