"""PostgreSQL goes away under load and comes back: what clients got whole is stored, word for word,
and nothing is left running."""

import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.crowd import Crowd, Told
from tests.reliability.finding import Finding
from tests.reliability.rows import Compared, compare
from tests.reliability.servers import ECHO, servers_on, started
from tests.serve.history import History
from tests.serve.proxy import Proxy
from tests.serve.server import until
from tests.serve.servers import Servers

AWAY_S = float(os.environ.get("DATABASE_AWAY_S", "30"))
BEFORE_S = AFTER_S = 8.0
CLIENTS = 24
WORD_MS = 10
WORDS = (30, 300, 1000, 5000)
"""Streams of the echo backend, which end before, in and after an outage that they began before."""

SETTLES_S = 60.0
"""Within which what waited for the database must be written, after the last answer."""

NEW_EVERY_S = 0.5
"""Somebody comes and asks for something short."""


@dataclass(frozen=True, slots=True)
class Outage:
    """One of them. `meanwhile`: what those got who asked while the database was away."""

    told: list[Told]
    meanwhile: list[Told]
    ended_whole: int
    compared: Compared
    settled_s: float

    def __str__(self) -> str:
        answers = Counter(f"{one.status} {one.code or 'whole'}" for one in self.meanwhile)
        shown = ", ".join(f"{count} times {answer}" for answer, count in answers.most_common())
        waited = max((one.ended - one.began for one in self.refused), default=0.0)
        return (
            f"{self.ended_whole} streams ended whole in it; new requests got {shown} (refusals "
            f"after {waited:.1f} s at most); {self.compared}, settled {self.settled_s:.1f} s "
            "after the last answer"
        )

    @property
    def refused(self) -> list[Told]:
        return [one for one in self.meanwhile if one.status != 200]

    @property
    def is_sound(self) -> bool:
        return (
            self.compared.is_sound
            and self.ended_whole > 0
            and bool(self.refused)
            and all(
                one.status == 503 and 1 <= (one.retry_after or 0) <= 120 for one in self.refused
            )
        )


def measure(folder: Path) -> Finding:
    with servers_on("PostgreSQL", folder) as servers:
        gone = outage(servers, Proxy.shut)
        print(f"refusing connections: {gone}", file=sys.stderr, flush=True)
        silent = outage(servers, Proxy.fall_silent)
    return Finding(
        promise=f"PostgreSQL away for {AWAY_S:.0f} s under {CLIENTS} streams",
        aim="nothing is lost of what clients got whole; streams go on; new requests get 503 with "
        "Retry-After; nothing is left running",
        seen=f"refusing connections: {gone}; silent: {silent}",
        holds=gone.is_sound and silent.is_sound,
    )


def outage(servers: Servers, go_away) -> Outage:
    direct = servers.databases.new()
    assert direct is not None
    with Proxy(direct) as proxy:
        variables = {**ECHO, "LLMAPI_ECHO_DELAY_MS": str(WORD_MS), "LLMAPI_LOG_LEVEL": "ERROR"}
        server = started(servers(database_url=proxy.url, **variables))
        history = History(server.var_dir, direct)
        keys = [server.new_key()]
        with Crowd(server.url, keys, CLIENTS, body) as crowd:
            time.sleep(BEFORE_S)
            went_at = time.time()
            go_away(proxy)
            visitors = []
            while time.time() < went_at + AWAY_S:
                visitors.append(Crowd(server.url, keys, 1, short, once=True))
                time.sleep(NEW_EVERY_S)
            proxy.open()
            back_at = time.time()
            time.sleep(AFTER_S)
        meanwhile = [one for visitor in visitors for one in visitor.wait()]
        settled_s = settle(history)
        told = [*crowd.told, *meanwhile]
        compared = compare(history, told)
        assert server.stop() == 0
    ended = sum(one.is_whole and went_at < one.ended < back_at for one in told)
    return Outage(told, meanwhile, ended, compared, settled_s)


def settle(history: History) -> float:
    """Until nothing is running any more, if that comes to pass; how long that took."""
    began = time.monotonic()

    def rows() -> int:
        sql = "SELECT count(*) FROM conversations_completion WHERE status = 'running'"
        return history.rows(sql)[0][0]

    try:
        until(lambda: rows() == 0, "nothing is running", SETTLES_S)
    except AssertionError as error:
        print(error, file=sys.stderr)
    return time.monotonic() - began


def short(number: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": f"Hello {number}"}], "stream": True}


def body(number: int) -> dict[str, object]:
    words = WORDS[number % len(WORDS)]
    said = f"Story {number:06d}. " + " ".join(f"w{place}" for place in range(words))
    return {"messages": [{"role": "user", "content": said}], "stream": True}
