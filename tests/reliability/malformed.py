"""Thousands of malformed requests, over all routes that take a body, by several connections."""

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from tests.engine import tiny
from tests.reliability.finding import Finding
from tests.reliability.mutations import BODIES, CHAT, MOST_BYTES, Spoiled, Spoiler
from tests.serve.asking import bearer
from tests.serve.history import History
from tests.serve.raw import RawAnswer, connect, exchange
from tests.serve.server import ServerUnderTest
from tests.serve.test_first_start import KEY

REQUESTS = int(os.environ.get("MALFORMED_REQUESTS", "10000"))
"""A multiple of CONNECTIONS."""

SEED = int(os.environ.get("MALFORMED_SEED", "1"))
CONNECTIONS = 4


@dataclass
class Tally:
    """What one connection, or all of them, were answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What was no refusal in the envelope, or names another field."""

    def add(self, spoiled: Spoiled, answer: RawAnswer | None) -> None:
        self.kinds[spoiled.kind] += 1
        self.statuses[answer.status if answer else 0] += 1
        if problem := what_is_wrong(spoiled, answer):
            self.wrong.append(f"{spoiled.kind}: {problem}: {spoiled.data[:300]!r}")

    def __iadd__(self, other: "Tally") -> "Tally":
        self.statuses += other.statuses
        self.kinds += other.kinds
        self.wrong += other.wrong
        return self


def what_is_wrong(spoiled: Spoiled, answer: RawAnswer | None) -> str | None:
    if answer is None:
        return "no answer"
    if not 400 <= answer.status < 500:
        return f"{answer.status} {answer.body[:200]!r}"
    if not answer.is_envelope:
        return f"{answer.status} without the envelope: {answer.body[:200]!r}"
    param = answer.json()["error"]["param"] or ""
    if spoiled.param is not None and not param.startswith(spoiled.param[:100]):
        return f"'{param}' is named, not '{spoiled.param}'"
    return None


def measure(folder: Path) -> Finding:
    model = tiny.write_random(folder / "model")
    limit = {"LLMAPI_MAX_BODY_BYTES": str(MOST_BYTES)}
    server = ServerUnderTest(folder / "var", model, **limit)
    try:
        server.start()
        server.wait_ready()
        return measured(server)
    finally:
        server.end()


def measured(server: ServerUnderTest) -> Finding:
    (key,) = KEY.findall(server.out)  # of a staff user, who may ask every route
    said = good_answer(server.url, key)
    assert said is not None, "a good request is not answered before"
    objects = {"{chat}": said["id"], "{conversation}": said["conversation"]["id"]}
    processes = (server.pid, server.engine_pid)
    # Made as they are sent, for some have megabytes; each connection has a seed of its own.
    shares = [
        islice(Spoiler(SEED + number, key, objects), REQUESTS // CONNECTIONS)
        for number in range(CONNECTIONS)
    ]
    began = time.monotonic()
    tally = Tally()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for part in pool.map(lambda share: sent(server.url, share), shares):
            tally += part
    took_s = time.monotonic() - began
    same = (server.pid, server.engine_pid) == processes and server.running.poll() is None
    good = good_answer(server.url, key) is not None
    rows = History(server.var_dir, server.database_url).read().completions
    left = sum(row.status == "running" for row in rows)
    for problem in tally.wrong[:20]:
        print(problem, file=sys.stderr)
    statuses = ", ".join(f"{status} x {n:,}" for status, n in sorted(tally.statuses.items()))
    errors = sum(n for status, n in tally.statuses.items() if status >= 500)
    return Finding(
        f"Bad input: {REQUESTS:,} malformed requests of {len(tally.kinds)} kinds (seed {SEED}) to "
        f"{len(BODIES)} routes, {CONNECTIONS} connections",
        "no 5xx, every error in the envelope with the right param, no process dead",
        f"{statuses}: {errors} x 5xx; {REQUESTS - len(tally.wrong):,} of {REQUESTS:,} refused in "
        f"the envelope; {'the same' if same else 'OTHER'} web and engine processes; {left} rows "
        f"left running; afterwards a good request is {'' if good else 'NOT '}answered; "
        f"{took_s:.0f} s",
        holds=not tally.wrong and not errors and same and good and left == 0,
    )


def good_answer(url: str, key: str) -> Any:
    body = BODIES[CHAT]
    answer = httpx.post(url + CHAT, json=body, headers=bearer(key), timeout=60)
    return answer.json() if answer.status_code == 200 else None


def sent(url: str, share: Iterable[Spoiled]) -> Tally:
    """All on one connection, as long as the server keeps it; odd HTTP on connections of its own."""
    tally = Tally()
    connection = connect(url)
    for spoiled in share:
        if spoiled.ends_connection:
            tally.add(spoiled, exchange(url, spoiled.data))
            continue
        connection.send_what_is_taken(spoiled.data)
        answer = None
        with contextlib.suppress(OSError):
            answer = connection.read_answer()
        if answer is None or answer.headers.get("connection") == "close":
            connection.close()
            connection = connect(url)
        tally.add(spoiled, answer)
    connection.close()
    return tally
