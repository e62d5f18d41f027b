"""/health and /ready: fast while the engine has all that it can do, and honest in every state."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import percentile
from tests.reliability.crowd import Crowd, streamed
from tests.reliability.finding import Finding
from tests.reliability.prober import Prober, probe
from tests.reliability.servers import ALL_CORES, ECHO, servers_on, started
from tests.serve.proxy import Proxy
from tests.serve.server import ServerUnderTest, free_port, until
from tests.serve.servers import Servers

COUNT = int(os.environ.get("PROBES_COUNT", "1000"))
"""Of each path, while the engine works."""

PER_S = 20.0
STREAMS = 32
MOST_MS = 50.0


def measure(folder: Path) -> Finding:
    states: dict[str, tuple[int, int]] = {}
    with servers_on("SQLite", folder, model="real") as servers:
        server = servers(
            flags=("--only_cpu", "--load_in_8bit"),
            port=free_port(),
            LLMAPI_KV_CACHE_TOKENS="32768",
            LLMAPI_LOG_LEVEL="WARNING",
            **ALL_CORES,
        )
        server.start()
        server.url = f"http://127.0.0.1:{server.port}"
        until(lambda: probe(server.url, "/health")[0] == 200, "it listens", 60)
        states["loading"] = both(server)
        server.wait_ready(300)
        states["ready"] = both(server)
        with Crowd(server.url, [server.new_key()], STREAMS, body) as crowd:
            crowd.all_stream()
            found = [Prober(server.url, path, COUNT, PER_S) for path in ("/health", "/ready")]
            health, ready = (prober.result() for prober in found)
            print(f"under load: {shown(health)}, {shown(ready)}", file=sys.stderr, flush=True)
        states["engine dead"] = engine_dead(server)
        states["draining"] = draining(server, server.new_key())
        states |= without_database(servers, folder)
    slow = {"/health": percentile_ms(health), "/ready": percentile_ms(ready)}
    honest = {name: seen == expected(name) for name, seen in states.items()}
    told = ", ".join(f"{name} {seen[0]}/{seen[1]}" for name, seen in states.items())
    statuses = {status for status, _ in (*health, *ready)}
    return Finding(
        promise=f"/health and /ready, {COUNT} times each while {STREAMS} streams run, and in every "
        "state",
        aim=f"p99 under {MOST_MS:.0f} ms; the truth",
        seen=f"p50 and p99: /health {shown(health)}, /ready {shown(ready)}; {told}",
        holds=statuses == {200}
        and all(ms < MOST_MS for ms in slow.values())
        and all(honest.values()),
    )


def expected(state: str) -> tuple[int, int]:
    return 200, 200 if state in ("ready", "database back") else 503


def percentile_ms(found: list[tuple[int, float]]) -> float:
    return percentile([ms for _, ms in found], 0.99)


def shown(found: list[tuple[int, float]]) -> str:
    return f"{percentile([ms for _, ms in found], 0.5):.1f} and {percentile_ms(found):.1f} ms"


def body(number: int) -> dict[str, object]:
    return streamed(number, max_tokens=128, ignore_eos=True)


def both(server: ServerUnderTest) -> tuple[int, int]:
    """Statuses of /health and /ready."""
    return probe(server.url, "/health")[0], probe(server.url, "/ready")[0]


def engine_dead(server: ServerUnderTest) -> tuple[int, int]:
    server.kill_engine()
    until(lambda: probe(server.url, "/ready")[0] == 503, "/ready says so", 5)
    seen = both(server)
    until(lambda: probe(server.url, "/ready")[0] == 200, "it is ready again", 300)
    return seen


def draining(server: ServerUnderTest, key: str) -> tuple[int, int]:
    with Crowd(server.url, [key], 1, body, once=True) as crowd:
        crowd.all_stream()
        server.signal(signal.SIGTERM)
        until(lambda: probe(server.url, "/ready")[0] == 503, "/ready says so", 5)
        seen = both(server)
    assert server.wait_exit() == 0
    return seen


def without_database(servers: Servers, folder: Path) -> dict[str, tuple[int, int]]:
    """On PostgreSQL, which is stopped, or silent."""
    states = {}
    with (
        servers_on("PostgreSQL", folder) as on_postgres,
        Proxy(on_postgres.databases.new() or "") as proxy,
    ):
        server = started(on_postgres(database_url=proxy.url, **ECHO))
        ways: dict[str, Callable[[], None]] = {
            "database refuses": proxy.shut,
            "database silent": proxy.fall_silent,
        }
        for name, go_away in ways.items():
            go_away()
            began = time.monotonic()
            states[name] = both(server)
            took_s = time.monotonic() - began
            print(f"{name}: told after {took_s:.1f} s", file=sys.stderr, flush=True)
            proxy.open()
            until(lambda: probe(server.url, "/ready")[0] == 200, "it is ready again", 60)
        states["database back"] = both(server)
        server.stop()
    return states
