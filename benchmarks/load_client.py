"""A closed loop of streaming chat clients against any OpenAI-compatible URL.

    python benchmarks/load_client.py http://127.0.0.1:19327 SmolLM2-135M-Instruct --key sk-...

Each of C clients sends its next request when its last is answered, until N requests are done.
Requests are greedy with every sampling parameter sent, so that no server's defaults count. Prompts
differ in their first words, so that no prefix is shared. Tokens are counted by the server's usage
where it sends one, else by chunks with text.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

WORDS = (
    "The harbour was quiet in the early morning and the boats lay still on the grey water. "
    "An old man mended his net on the quay and did not look up when the bell rang twice. "
    "Behind him the market women set out their baskets of bread, onions, apples and eggs, "
    "and a boy ran between them with a letter that nobody had asked him to carry. "
)
QUESTION = "Continue this story and tell what the letter said."


@dataclass
class Timing:
    """One answered request; times in seconds."""

    first_token_s: float
    total_s: float
    tokens: int
    gaps_s: list[float] = field(default_factory=list)


def prompt(number: int) -> str:
    """About 120 tokens for a chat model's tokenizer, different from its first word on."""
    return f"Story {number}. {WORDS} {QUESTION}"


async def ask(
    client: httpx.AsyncClient, options: argparse.Namespace, number: int, extra: dict[str, Any]
) -> Timing:
    body = {
        "model": options.model,
        "messages": [{"role": "user", "content": prompt(number)}],
        "max_tokens": options.max_tokens,
        "temperature": 0,
        "top_p": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    for name in options.drop:
        body.pop(name, None)
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    began = time.perf_counter()
    arrivals: list[float] = []
    counted = 0
    url = f"{options.url.rstrip('/')}/v1/chat/completions"
    async with client.stream("POST", url, json=body, headers=headers) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()[:500]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise SystemExit(f"error in the stream: {event['error']}")
            if event.get("usage"):
                counted = event["usage"]["completion_tokens"]
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                arrivals.append(time.perf_counter())
    end = time.perf_counter()
    return Timing(
        first_token_s=(arrivals[0] if arrivals else end) - began,
        total_s=end - began,
        tokens=counted or len(arrivals),
        gaps_s=[b - a for a, b in itertools.pairwise(arrivals)],
    )


async def run(options: argparse.Namespace, clients: int, numbers: Iterator[int]) -> list[Timing]:
    """`options.requests` requests by `clients` clients at once; the first round warms up unseen."""
    extra = json.loads(options.extra)
    timings: list[Timing] = []
    left = options.requests

    async def one_client(client: httpx.AsyncClient) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            timings.append(await ask(client, options, next(numbers), extra))

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
        await asyncio.gather(*[one_client(client) for _ in range(clients)])
    return timings


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def row(clients: int, timings: list[Timing], wall_s: float) -> dict[str, float]:
    first = [timing.first_token_s for timing in timings]
    gaps = [gap for timing in timings for gap in timing.gaps_s]
    tokens = sum(timing.tokens for timing in timings)
    return {
        "clients": clients,
        "requests": len(timings),
        "tokens": tokens,
        "tokens/s": tokens / wall_s,
        "first p50 ms": statistics.median(first) * 1000,
        "first p95 ms": percentile(first, 0.95) * 1000,
        "gap p50 ms": (statistics.median(gaps) if gaps else float("nan")) * 1000,
        "gap p95 ms": percentile(gaps, 0.95) * 1000,
    }


def table(rows: list[dict[str, float]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---:" for _ in names) + " |"]
    lines += ["| " + " | ".join(f"{value:,.0f}" for value in r.values()) + " |" for r in rows]
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> list[dict[str, float]]:
    """One row for each number of clients, in order."""
    numbers = iter(range(1_000_000))
    warm_up = argparse.Namespace(**{**vars(options), "requests": 2})
    asyncio.run(run(warm_up, 1, numbers))
    rows = []
    for clients in options.clients:
        began = time.perf_counter()
        timings = asyncio.run(run(options, clients, numbers))
        rows.append(row(clients, timings, time.perf_counter() - began))
    return rows


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="A load of streaming chat clients.")
    result.add_argument("url")
    result.add_argument("model")
    result.add_argument("-c", "--clients", type=int, nargs="+", default=[1, 8])
    result.add_argument("-n", "--requests", type=int, default=16)
    result.add_argument("--max-tokens", type=int, default=64)
    result.add_argument("--key")
    result.add_argument("--extra", default='{"repetition_penalty": 1.0, "top_k": 0}')
    result.add_argument("--drop", nargs="*", default=[])
    return result


if __name__ == "__main__":
    print(table(measure(parser().parse_args())))
