"""SIGTERM while fifty streams run: with time enough all come to their end, without it each is told
so, and kept as far as it had come."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.reliability.crowd import Crowd, Told, streamed
from tests.reliability.finding import Finding
from tests.reliability.rows import Compared, compare
from tests.reliability.servers import ALL_CORES, servers_on, started
from tests.serve.asking import CHAT, bearer
from tests.serve.history import History
from tests.serve.servers import Servers

STREAMS = int(os.environ.get("SHUTDOWN_STREAMS", "50"))
ENOUGH_S, TOO_LITTLE_S = 120.0, 1.0
SHORT, LONG = 1500, 6000
"""Tokens of an answer: those of the tiny model take seconds and minutes."""

AT_ONCE_S = 0.1


@dataclass(frozen=True, slots=True)
class Ending:
    """How one server ended. `refusing_after_s`: from the signal to the first 503 of /ready."""

    told: list[Told]
    compared: Compared
    statuses: list[str]
    refusing_after_s: float
    new_request: str
    """What one got that came after the signal."""

    exit_code: int
    took_s: float

    @property
    def whole(self) -> int:
        return sum(one.is_whole for one in self.told)

    @property
    def is_in_order(self) -> bool:
        return (
            self.compared.is_sound
            and self.exit_code == 0
            and self.refusing_after_s < AT_ONCE_S
            and self.new_request == "503 shutting_down"
        )


def measure(folder: Path) -> Finding:
    with servers_on("SQLite", folder, model="tiny") as servers:
        patient = end(servers, limit_s=ENOUGH_S, max_tokens=SHORT)
        print(f"with time enough: {patient.took_s:.1f} s", file=sys.stderr, flush=True)
        hurried = end(servers, limit_s=TOO_LITTLE_S, max_tokens=LONG)
    interrupted = sum(one.code == "unavailable" for one in hurried.told)
    slowest = max(patient.refusing_after_s, hurried.refusing_after_s)
    return Finding(
        promise=f"SIGTERM while {STREAMS} streams run",
        aim="/ready and new requests 503 at once; all finish, or are `interrupted` with their text "
        "when the limit is over; exit code 0",
        seen=f"time enough: {patient.whole} finished in {patient.took_s:.1f} s, exit code "
        f"{patient.exit_code}; {TOO_LITTLE_S:g} s: {hurried.whole} finished, {interrupted} told "
        f"and {hurried.statuses.count('interrupted')} stored as interrupted, ended after "
        f"{hurried.took_s:.1f} s, exit code {hurried.exit_code}; {hurried.compared}; /ready 503 "
        f"after {slowest * 1000:.0f} ms at most, a new request {hurried.new_request}",
        holds=patient.is_in_order
        and hurried.is_in_order
        and patient.whole == STREAMS
        and interrupted == hurried.statuses.count("interrupted") == STREAMS,
    )


def end(servers: Servers, *, limit_s: float, max_tokens: int) -> Ending:
    server = started(
        servers(
            LLMAPI_SHUTDOWN_TIMEOUT_S=str(limit_s),
            LLMAPI_MAX_BATCH=str(STREAMS),
            LLMAPI_KV_CACHE_TOKENS=str(STREAMS * (LONG + 200)),
            LLMAPI_LOG_LEVEL="WARNING",
            **ALL_CORES,
        )
    )
    history = History(server.var_dir, server.database_url)
    key = server.new_key()

    def body(number: int) -> dict[str, object]:
        return streamed(number, max_tokens=max_tokens, ignore_eos=True)

    crowd = Crowd(server.url, [key], STREAMS, body, once=True)
    crowd.all_stream()
    with httpx.Client(base_url=server.url, timeout=10) as client:
        assert client.get("/ready").status_code == 200
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        while client.get("/ready").status_code != 503:
            pass
        refusing_after_s = time.monotonic() - began
        answer = client.post(CHAT, json=streamed(0), headers=bearer(key))
        new_request = f"{answer.status_code} {answer.json()['error']['code']}"
    exit_code = server.wait_exit(limit_s + 60)
    took_s = time.monotonic() - began
    told = crowd.wait()
    statuses = [row.status for row in history.read().completions]
    compared = compare(history, told)
    return Ending(told, compared, statuses, refusing_after_s, new_request, exit_code, took_s)
