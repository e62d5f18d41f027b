"""The engine is killed in the middle of a batch: everybody hears of it, and the next one comes."""

import os
import signal
import sys
import time
from pathlib import Path

from tests.reliability.crowd import Crowd, streamed
from tests.reliability.finding import Finding
from tests.reliability.rows import compare
from tests.reliability.servers import ALL_CORES, servers_on, started
from tests.serve.history import History
from tests.serve.server import until

TIMES = int(os.environ.get("ENGINE_DEATHS", "10"))
STREAMS = 20
MOST_S = 2.0


def measure(folder: Path) -> Finding:
    last_s, ready_s, told, seen_503 = [], [], [], 0
    variables = {**ALL_CORES, "LLMAPI_KV_CACHE_TOKENS": "32768", "LLMAPI_LOG_LEVEL": "WARNING"}
    with servers_on("SQLite", folder, model="real") as servers:
        server = started(servers(flags=("--only_cpu", "--load_in_8bit"), **variables))
        history = History(server.var_dir, server.database_url)
        key, web = server.new_key(), server.pid
        for number in range(TIMES):
            crowd = Crowd(server.url, [key], STREAMS, body(number), once=True)
            crowd.all_stream()
            killed_at = time.time()
            os.kill(server.engine_pid or 0, signal.SIGKILL)
            told += crowd.wait()
            last_s.append(max(one.ended for one in told) - killed_at)
            seen_503 += server.ready_status() == 503
            until(lambda: server.ready_status() == 200, "it is ready again", 300)
            ready_s.append(time.time() - killed_at)
            print(
                f"death {number + 1}: heard after {last_s[-1]:.2f} s", file=sys.stderr, flush=True
            )
            with Crowd(server.url, [key], 1, body(1000 + number, max_tokens=4), once=True) as one:
                told += one.wait()
        web_lived = (server.pid, server.running.poll()) == (web, None)
        compared = compare(history, told)
        lost = [row for row in history.read().completions if row.status == "interrupted"]
        exit_code = server.stop()
    errors = sum(one.code == "engine_lost" for one in told)
    after = sum(one.is_whole for one in told)
    return Finding(
        promise=f"the engine is killed under {STREAMS} streams, {TIMES} times",
        aim=f"an error within {MOST_S:g} s, /ready 503 and then 200, the same web process, rows "
        "`interrupted` with their text",
        seen=f"{errors} of {TIMES * STREAMS} told, after {max(last_s):.2f} s at most; /ready 503 "
        f"{seen_503} times, 200 after {min(ready_s):.1f} to {max(ready_s):.1f} s; afterwards "
        f"{after} of {TIMES} answered; {compared}; web process "
        f"{'the same' if web_lived else 'another'}, exit code {exit_code}",
        holds=errors == len(lost) == TIMES * STREAMS
        and max(last_s) <= MOST_S
        and seen_503 == after == TIMES
        and compared.is_sound
        and all(row.error for row in lost)
        and web_lived
        and exit_code == 0,
    )


def body(seed: int, max_tokens: int = 500):
    return lambda number: streamed(seed * 100 + number, max_tokens=max_tokens, ignore_eos=True)
