"""One user with a hundred requests in flight, over several keys, beside another with one: how much
longer the other waits than alone."""

import os
import sys
import time
from pathlib import Path

from benchmarks.figures import percentile
from tests.reliability.finding import Finding
from tests.reliability.load import (
    Asked,
    Clients,
    InProcess,
    closed_loop,
    now_and_then,
    served_model,
)
from tests.reliability.servers import ALL_CORES, FLAGS, servers_on, started
from tests.serve.server import ServerUnderTest

REQUESTS = int(os.environ.get("FAIRNESS_REQUESTS", "60"))
"""Of the modest user, alone and then beside the greedy one."""

PAUSE_S = 0.3
GREEDY = 100
GREEDY_KEYS = 5
SETTLES_S = 10.0
MAX_TOKENS = 64
MOST = 2.0


def measure(folder: Path) -> Finding:
    with servers_on("SQLite", folder, model="real") as servers:
        server = started(servers(flags=FLAGS, LLMAPI_LOG_LEVEL="WARNING", **ALL_CORES))
        modest = [server.new_key("modest")]
        greedy = [server.new_key("greedy") for _ in range(GREEDY_KEYS)]
        InProcess(now_and_then, asker(server, modest, 900_000), 5, PAUSE_S).result()
        alone = InProcess(now_and_then, asker(server, modest, 0), REQUESTS, PAUSE_S).result()
        print(f"alone: {shown(alone)}", file=sys.stderr)
        # It goes on for longer than the modest one can need.
        longest_s = SETTLES_S + REQUESTS * (PAUSE_S + 10 * percentile(times(alone), 0.95))
        crowd = InProcess(closed_loop, asker(server, greedy, 100_000), GREEDY, longest_s)
        try:
            time.sleep(SETTLES_S)
            beside = InProcess(now_and_then, asker(server, modest, 500_000), REQUESTS, PAUSE_S)
            found = beside.result()
        finally:
            crowd.end()
    print(f"beside: {shown(found)}", file=sys.stderr)
    assert all(one.status == 200 for one in (*alone, *found)), "the modest user was refused"
    first = percentile(firsts(found), 0.95) / percentile(firsts(alone), 0.95)
    total = percentile(times(found), 0.95) / percentile(times(alone), 0.95)
    return Finding(
        promise=f"{GREEDY} requests of one user, over {GREEDY_KEYS} keys, beside one of another",
        aim=f"at most {MOST:.0f} times the other's p95 alone",
        seen=f"first token {first:.2f} times, answer {total:.2f} times; alone {shown(alone)}; "
        f"beside {shown(found)}",
        holds=first <= MOST and total <= MOST,
    )


def asker(server: ServerUnderTest, keys: list[str], first_number: int) -> Clients:
    return Clients(server.url, served_model(server), keys, MAX_TOKENS, first_number)


def firsts(found: list[Asked]) -> list[float]:
    return [one.first_s for one in found if one.first_s is not None]


def times(found: list[Asked]) -> list[float]:
    return [one.total_s for one in found]


def shown(found: list[Asked]) -> str:
    return f"first {in_ms(firsts(found))}, all {in_ms(times(found))} ms"


def in_ms(seconds: list[float]) -> str:
    return f"p50 {percentile(seconds, 0.5) * 1000:.0f}, p95 {percentile(seconds, 0.95) * 1000:.0f}"
