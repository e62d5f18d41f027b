"""Five times as many requests as the server can answer: who is refused hears it at once, and what
is answered is hardly less than without."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from tests.reliability.finding import Finding
from tests.reliability.load import Asked, Clients, InProcess, closed_loop, open_loop, served_model
from tests.reliability.servers import ALL_CORES, FLAGS, servers_on, started

CAPACITY_S = float(os.environ.get("OVERLOAD_CAPACITY_S", "30"))
OVERLOAD_S = float(os.environ.get("OVERLOAD_S", "60"))
SETTLES_S = float(os.environ.get("OVERLOAD_SETTLES_S", "10"))
"""At the beginning of each; what ends in it does not count."""

MODEL: Any = os.environ.get("OVERLOAD_MODEL", "real")
"""`tiny`: hardly any work for the engine, so that refusals are what there is to do."""

CLIENTS = 32
TIMES = 5
USERS = 8
MAX_TOKENS = 64

LEAST_SHARE = 0.9
"""Of the capacity."""

MOST_REFUSAL_MS = 100


def measure(folder: Path) -> Finding:
    with servers_on("SQLite", folder, model=MODEL) as servers:
        server = started(servers(flags=FLAGS, LLMAPI_LOG_LEVEL="WARNING", **ALL_CORES))
        model = served_model(server)
        keys = [server.new_key(f"user-{number}") for number in range(USERS)]
        clients = Clients(server.url, model, keys, MAX_TOKENS)
        began = time.monotonic()
        alone = InProcess(closed_loop, clients, CLIENTS, SETTLES_S + CAPACITY_S).result()
        capacity = tokens_per_s(alone, began + SETTLES_S, began + SETTLES_S + CAPACITY_S)
        assert capacity, f"nothing was answered: {alone[:3]}"
        rate = TIMES * capacity / MAX_TOKENS
        print(f"capacity {capacity:.0f} tokens/s; offering {rate:.1f}/s", file=sys.stderr)
        clients = Clients(server.url, model, keys, MAX_TOKENS, first_number=100_000)
        offering = InProcess(open_loop, clients, rate, SETTLES_S + OVERLOAD_S)
        found = offering.result()
    first = min(one.began for one in found)
    goodput = tokens_per_s(found, first + SETTLES_S, first + SETTLES_S + OVERLOAD_S)
    refused = [one for one in found if one.status in (429, 503)]
    strange = [one for one in found if not is_as_promised(one)]
    for one in strange[:5]:
        print(f"not as promised: {one}", file=sys.stderr)
    refusals_ms = [one.total_s * 1000 for one in refused]
    slow = percentile(refusals_ms, 0.99)
    seen = (
        f"{len(found)} requests at {rate:.1f}/s: {len(found) - len(refused) - len(strange)} "
        f"answered, {len(refused)} refused (p50 {percentile(refusals_ms, 0.5):.0f} ms, p99 "
        f"{slow:.0f} ms), {len(strange)} otherwise; {goodput:.0f} of {capacity:.0f} tokens/s "
        f"({goodput / capacity:.0%})"
    )
    return Finding(
        promise=f"{TIMES}-fold overload: 200, or 429 and 503 with Retry-After, and no less is done",
        aim=f"nothing else; refusals p99 {MOST_REFUSAL_MS} ms; {LEAST_SHARE:.0%} of the capacity",
        seen=seen,
        holds=not strange and slow <= MOST_REFUSAL_MS and goodput >= LEAST_SHARE * capacity,
    )


def tokens_per_s(found: list[Asked], since: float, until: float) -> float:
    """Of answers that came to their end in this time. (What is answered after it had begun in
    it.)"""
    return sum(one.tokens for one in found if since <= one.ended < until) / (until - since)


def is_as_promised(one: Asked) -> bool:
    if one.status == 200:
        return one.tokens == MAX_TOKENS
    waits = one.retry_after is not None and 1 <= one.retry_after <= 120
    return one.status in (429, 503) and waits
