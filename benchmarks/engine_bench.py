"""The engine alone, without HTTP, users or rows; and what the whole API costs over it.

    python -m benchmarks.engine_bench -c 1 32
    python -m benchmarks.engine_bench -c 32 --api --rounds 3

The same prompts, lengths and closed loop as the load client's: each of N places takes the next
request when its last is answered. With `--api` our server is measured by turns with the engine, in
as many rounds, and the last column is the share of the engine's tokens/s that it does not reach.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# As the server starts its engine process (llmapi/backends/link.py); libgomp reads it when torch is
# loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from transformers import AutoTokenizer

from benchmarks.figures import markdown, median, percentiles_ms
from benchmarks.load_client import gaps_of, measure
from benchmarks.model import PROJECT, model_directory
from benchmarks.prompts import chat
from benchmarks.servers import Running, chosen_server, settings_from, started
from llmapi.engine.config import EngineConfig
from llmapi.engine.engine import Engine
from llmapi.engine.loader import load
from llmapi.engine.messages import (
    Finish,
    GenerateRequest,
    RequestFailed,
    SamplingParams,
    TextDelta,
)


def engine_config(model: Path, options: argparse.Namespace) -> EngineConfig:
    cache = str(PROJECT / "var/models")
    return EngineConfig(str(model), cache, load_in_8bit=options.load_in_8bit)


class Prompts:
    """The load client's prompts as tokens."""

    def __init__(self, model: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)

    def tokens(self, number: int) -> tuple[int, ...]:
        encoded = self._tokenizer.apply_chat_template(
            chat(number), add_generation_prompt=True, return_dict=True
        )
        return tuple(encoded["input_ids"])


def run_engine(
    engine: Engine,
    prompts: list[tuple[int, ...]],
    places: int,
    max_tokens: int,
) -> dict[str, float]:
    """All prompts, `places` of them at once."""
    params = SamplingParams(max_tokens, do_sample=False, ignore_eos=True, min_tokens=max_tokens)
    waiting = iter(enumerate(prompts))
    asked: dict[str, float] = {}
    arrivals: dict[str, list[float]] = {}
    tokens = 0

    def ask_next() -> None:
        for number, prompt in itertools.islice(waiting, 1):
            request = GenerateRequest(f"r{number}", "bench", (prompt,), params)
            asked[request.request_id] = time.perf_counter()
            arrivals[request.request_id] = []
            engine.add(request)

    began = time.perf_counter()
    for _ in range(places):
        ask_next()
    while engine.has_work:
        output = engine.step()
        now = time.perf_counter()
        for event in output.events:
            if isinstance(event, RequestFailed):
                raise SystemExit(f"the engine failed: {event.message}")
            if isinstance(event, TextDelta):
                arrivals[event.request_id].append(now)
            if isinstance(event, Finish):
                tokens += event.completion_tokens
                ask_next()
    seconds = time.perf_counter() - began
    first = [times[0] - asked[name] for name, times in arrivals.items() if times]
    gaps = [gap for times in arrivals.values() for gap in gaps_of(times)]
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        **percentiles_ms("first", first),
        **percentiles_ms("gap", gaps),
    }


def our_server(stack: ExitStack, options: argparse.Namespace, model: Path) -> Running:
    server = chosen_server("ours, 8-bit" if options.load_in_8bit else "ours, fp32")
    return stack.enter_context(started(server, settings_from([], model)))


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine alone.")
    parser.add_argument("-c", "--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--per-client", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--load_in_8bit", action="store_true")
    parser.add_argument("--api", action="store_true", help="our whole server beside it")
    parser.add_argument("--model", type=Path, metavar="DIR")
    options = parser.parse_args()
    model = model_directory(options.model)
    engine = load(engine_config(model, options)).engine
    prompts = Prompts(model)
    numbers = itertools.count(1)

    def take(count: int) -> list[tuple[int, ...]]:
        return [prompts.tokens(next(numbers)) for _ in range(count)]

    run_engine(engine, take(2), 2, options.max_tokens)  # warm up
    rows: dict[int, list[dict[str, float]]] = {clients: [] for clients in options.clients}
    with ExitStack() as stack:
        api = our_server(stack, options, model) if options.api else None
        if api:
            measure(api.load(max_tokens=options.max_tokens), 2, 2, numbers)
        for _ in range(options.rounds):
            for clients in options.clients:
                count = max(options.per_client * clients, 8)
                row = run_engine(engine, take(count), clients, options.max_tokens)
                if api:
                    row["api"] = api_tokens_per_s(api, clients, count, options, numbers)
                rows[clients].append(row)
                print(f"{clients}: {row}", file=sys.stderr)
    print(table(rows))


def api_tokens_per_s(
    api: Running, clients: int, count: int, options: argparse.Namespace, numbers: Iterator[int]
) -> float:
    row = measure(api.load(max_tokens=options.max_tokens), clients, count, numbers)
    return row.tokens_per_s


def table(rows: dict[int, list[dict[str, float]]]) -> str:
    """Medians over the rounds."""
    head = ["at once", "engine tokens/s"]
    columns = ["tokens_per_s"]
    for name in ("first", "gap"):
        head += [f"{name} p{p} ms" for p in (50, 95, 99)]
        columns += [f"{name}_p{p}_ms" for p in (50, 95, 99)]
    shown: list[list[Any]] = []
    with_api = any("api" in row for found in rows.values() for row in found)
    for clients, found in rows.items():
        line: list[Any] = [clients, *(median(row[column] for row in found) for column in columns)]
        if with_api:
            cost = 1 - median(row["api"] / row["tokens_per_s"] for row in found)
            line += [median(row["api"] for row in found), f"{cost:.1%}"]
        shown.append(line)
    return markdown(head + ["API tokens/s", "API costs"] * with_api, shown)


if __name__ == "__main__":
    main()
