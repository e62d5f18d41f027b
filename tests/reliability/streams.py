"""Two hundred streams for minutes: none is dropped, nothing grows, every text is stored."""

import os
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Self

from tests.reliability.crowd import Crowd, streamed
from tests.reliability.finding import Finding
from tests.reliability.rows import compare
from tests.reliability.servers import ALL_CORES, servers_on, started
from tests.serve.history import History
from tests.serve.server import ServerUnderTest

STREAMS = int(os.environ.get("STREAMS_COUNT", "200"))
SECONDS = float(os.environ.get("STREAMS_S", "300"))
WARM_UP_S = float(os.environ.get("STREAMS_WARM_UP_S", "120"))
"""Until every block of the cache has been written to, and every thread and pool is there."""

USERS = 8
"""One alone may have half of the places only."""

MAX_TOKENS = 64
CACHE_TOKENS = STREAMS * 144
"""What they all need together, so that all of it is in use from the first minute on."""

WINDOW_S = 15.0
"""Memory is the median of so many seconds."""

MOST_GROWTH = 0.05


def measure(folder: Path) -> Finding:
    variables = {
        **ALL_CORES,
        "LLMAPI_MAX_BATCH": str(STREAMS),
        "LLMAPI_KV_CACHE_TOKENS": str(CACHE_TOKENS),
        "LLMAPI_LOG_LEVEL": "WARNING",
    }
    with servers_on("SQLite", folder, model="real") as servers:
        server = started(servers(flags=("--only_cpu", "--load_in_8bit"), **variables))
        history = History(server.var_dir, server.database_url)
        keys = [server.new_key(f"user-{number}") for number in range(USERS)]
        with Crowd(server.url, keys, STREAMS, body) as crowd, Memory(server) as memory:
            crowd.all_stream()
            time.sleep(WARM_UP_S)
            warm = len(memory.samples)
            time.sleep(SECONDS)
        told = crowd.told
        compared = compare(history, told)
    # What was asked for last is only heard to its end, so not all count as one of 200 at once.
    whole = sum(one.is_whole for one in told)
    growth = memory.growth_from(warm)
    shown = ", ".join(
        f"{name} {before:.0f} to {after:.0f} MiB ({after / before - 1:+.1%})"
        for name, (before, after) in growth.items()
    )
    return Finding(
        promise=f"{STREAMS} streams at once for {SECONDS:.0f} s",
        aim=f"0 dropped, memory of web and engine grows by less than {MOST_GROWTH:.0%}, "
        "every text stored",
        seen=f"{whole} answered, {len(told) - whole} dropped; {compared}; {shown}",
        holds=whole == len(told)
        and compared.is_sound
        and all(after / before - 1 < MOST_GROWTH for before, after in growth.values()),
    )


def body(number: int) -> dict[str, object]:
    return streamed(number, max_tokens=MAX_TOKENS, min_tokens=MAX_TOKENS)


class Memory:
    """Resident memory of web and engine, once a second, in MiB."""

    def __init__(self, server: ServerUnderTest) -> None:
        self.pids = {"web": server.pid, "engine": server.engine_pid}
        self.samples: list[dict[str, float]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def growth_from(self, warm: int) -> dict[str, tuple[float, float]]:
        """Name -> before and after, of the samples from number `warm` on."""
        few = int(WINDOW_S)
        first, last = self.samples[warm : warm + few], self.samples[-few:]
        return {
            name: (median(s[name] for s in first), median(s[name] for s in last))
            for name in self.pids
        }

    def _watch(self) -> None:
        while not self._stopping.wait(1):
            sample = {name: resident_mib(pid) for name, pid in self.pids.items()}
            self.samples.append(sample)
            if len(self.samples) % 30 == 0:
                told = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in sample.items())
                print(f"after {len(self.samples)} s: {told}", file=sys.stderr, flush=True)


def resident_mib(pid: int | None) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} is gone")
