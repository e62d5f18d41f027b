"""What running streams feel of a long prompt that arrives.

    python -m benchmarks.long_prompt                 (our server, started for this)
    python -m benchmarks.long_prompt --url URL --model-name NAME --key KEY

Some streams run; after a while somebody sends a prompt of 4,000 tokens. The times between their
tokens before it came, and from then until its first token, are compared by their p95.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import markdown, median, percentile
from benchmarks.load_client import Load
from benchmarks.model import model_directory
from benchmarks.prompts import chat
from benchmarks.servers import chosen_server, settings_from, started
from benchmarks.stream import Endpoint, Recording, exchange, read_answer, text_times

OTHER_TOKENS = 39
"""Of a prompt's 111, what is no sentence; 8 for each sentence besides."""

STREAM_TOKENS = 2_000
"""Longer than any measurement; what is left is cut off."""


async def one_trial(
    load: Load, numbers: Iterator[int], streams: int, long_tokens: int, idle_s: float
) -> dict[str, float]:
    endpoint = Endpoint.at(load.url, load.key)
    running = replace(load, max_tokens=STREAM_TOKENS)
    recordings = [Recording() for _ in range(streams)]
    tasks = [
        asyncio.create_task(exchange(endpoint, running.body(chat(next(numbers))), into=recording))
        for recording in recordings
    ]
    while not all(map(text_times, recordings)):
        check_alive(tasks)
        await asyncio.sleep(0.2)
    idle_began = time.perf_counter()
    await asyncio.sleep(idle_s)
    sentences = (long_tokens - OTHER_TOKENS) // 8
    body = replace(load, max_tokens=1).body(chat(next(numbers), sentences=sentences))
    sent = time.perf_counter()
    answer = read_answer(await exchange(endpoint, body))
    first = sent + (answer.arrivals or (answer.total_s,))[0]
    check_alive(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    idle = [gap for r in recordings for gap in gaps_between(text_times(r), idle_began, sent)]
    busy = [gap for r in recordings for gap in gaps_between(text_times(r), sent, first)]
    return {
        "idle p50": percentile(idle, 0.5),
        "idle p95": percentile(idle, 0.95),
        "busy p50": percentile(busy, 0.5),
        "busy p95": percentile(busy, 0.95),
        "busy most": max(busy, default=float("nan")),
        "first": first - sent,
        "tokens": float((answer.usage or {}).get("prompt_tokens", 0)),
    }


def check_alive(tasks: "list[asyncio.Task[Recording]]") -> None:
    """A stream that has ended has failed: it was to go on."""
    for task in tasks:
        if task.done():
            raise SystemExit(f"a stream ended too early: {read_answer(task.result()).text[:100]!r}")


def gaps_between(times: list[float], began: float, ended: float) -> list[float]:
    """Gaps that overlap the span: a token that is late because of it comes after its end."""
    return [b - a for a, b in itertools.pairwise(times) if b > began and a < ended]


def table(trials: list[dict[str, float]], streams: int) -> str:
    def of(name: str) -> float:
        return median(trial[name] for trial in trials) * 1000

    ratio = median(trial["busy p95"] / trial["idle p95"] for trial in trials)
    head = ["", "between p50 ms", "between p95 ms", "longest ms"]
    rows = [
        ["idle", of("idle p50"), of("idle p95"), "-"],
        ["while a long prompt arrives", of("busy p50"), of("busy p95"), of("busy most")],
    ]
    tokens = int(median(trial["tokens"] for trial in trials))
    return (
        f"{streams} running streams, {len(trials)} trials, a prompt of {tokens:,} tokens "
        f"(its first token after {of('first'):,.0f} ms):\n\n{markdown(head, rows)}\n\n"
        f"p95 is {ratio:.1f} times its idle value."
    )


async def run(given: argparse.Namespace) -> list[dict[str, float]]:
    numbers = itertools.count(int(time.time()) % 900_000)
    with ExitStack() as stack:
        if given.url:
            load = Load(given.url, given.model_name, given.key, drop=given.drop)
        else:
            settings = settings_from(given.set, model_directory(given.model))
            load = stack.enter_context(started(chosen_server(given.server), settings)).load()
        await exchange(Endpoint.at(load.url, load.key), load.body(chat(next(numbers))))  # warm up
        return [
            await one_trial(load, numbers, given.streams, given.tokens, given.idle_s)
            for _ in range(given.trials)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description="A long prompt among running streams.")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--idle-s", type=float, default=5)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--url", help="of a running server; else one is started")
    parser.add_argument("--model-name", default="SmolLM2-135M-Instruct")
    parser.add_argument("--key")
    parser.add_argument("--drop", nargs="*", default=[], metavar="FIELD")
    parser.add_argument("--server", default="ours, fp32", help="of servers.toml, to start")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--model", type=Path, metavar="DIR")
    given = parser.parse_args()
    print(table(asyncio.run(run(given)), given.streams))


if __name__ == "__main__":
    main()
