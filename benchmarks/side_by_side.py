"""The same load against several servers on this machine, one after the other.

    python -m benchmarks.side_by_side --rounds 3 --json var/side_by_side.json

servers.toml lists them; those that are not installed are skipped with the reason. A machine's speed
drifts, so every server is measured once in each round, and the table shows medians over rounds.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.load_client import TextLength, measure, tokenizer_length
from benchmarks.machine import Rates, description, limits, measured_rates
from benchmarks.model import Shape, model_directory
from benchmarks.results import Results, save, tables
from benchmarks.servers import (
    NotStarted,
    Server,
    read_servers,
    settings_from,
    started,
    version_of,
    why_not_installed,
)
from benchmarks.stream import BadAnswer


def run(given: argparse.Namespace, tell: Callable[[str], None]) -> Results:
    """Results are saved after each server: a run takes hours with slow ones."""
    model = model_directory(given.model)
    settings = settings_from(given.set, model)
    length = tokenizer_length(model)
    results: Results = {
        "machine": description(),
        "model": "SmolLM2-135M-Instruct" if given.model is None else model.name,
        "load": {"max_tokens": given.max_tokens, "rounds": given.rounds},
        "servers": {},
        "skipped": {},
        "rows": [],
    }
    servers = chosen(read_servers(given.servers), given.only)
    for server in servers:
        if reason := why_not_installed(server, settings):
            skip(results, server, reason, tell)
        else:
            results["servers"][server.name] = version_of(server, settings)
    for round_number in range(1, given.rounds + 1):
        tell(f"round {round_number}")
        add_limits(results, Shape.of(model), given.clients)
        for server in servers:
            if server.name in results["skipped"]:
                continue
            try:
                results["rows"] += rows_of(server, settings, given, round_number, length, tell)
            except (NotStarted, BadAnswer) as error:
                skip(results, server, str(error), tell)
            save(results, given.json)
    return results


def skip(results: Results, server: Server, reason: str, tell: Callable[[str], None]) -> None:
    results["skipped"][server.name] = reason
    tell(f"{server.name}: skipped ({reason})")


def add_limits(results: Results, shape: Shape, batches: list[int]) -> None:
    """Of the best rates so far: what a round was disturbed by is no limit."""
    now = asdict(measured_rates())
    before = results.get("rates", now)
    best: dict[str, Any] = {n: max(before[n] or 0, now[n] or 0) or None for n in now}
    results["rates"] = best
    results["limits"] = [asdict(row) for row in limits(shape, Rates(**best), batches)]


def rows_of(
    server: Server,
    settings: dict[str, str],
    given: argparse.Namespace,
    round_number: int,
    length: TextLength,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """One life of a server. Raises NotStarted or BadAnswer."""
    tell(server.name)
    rows = []
    numbers = itertools.count(1)  # it has seen none of them
    with started(server, settings) as running:
        load = running.load(max_tokens=given.max_tokens)
        measure(load, 2, 2, numbers)  # warm up, unseen
        for clients in server.clients or given.clients:
            if clients not in given.clients:
                continue
            requests = max(given.per_client * clients, given.least_requests)
            requests = min(requests, server.most_requests or requests)
            row = measure(load, clients, requests, numbers, length)
            rows.append({"server": server.name, "round": round_number, **asdict(row)})
            tell(f"  {clients} clients: {row.tokens_per_s:.1f} tokens/s")
    return rows


def chosen(servers: list[Server], words: Sequence[str]) -> list[Server]:
    """Those whose names have one of the words in them; all if there are no words."""
    found = [s for s in servers if not words or any(w.lower() in s.name.lower() for w in words)]
    if not found:
        raise SystemExit(f"no server of {', '.join(s.name for s in servers)} is meant by {words}")
    return found


# ---- command -------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--clients", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-client", type=int, default=3, help="requests of each client")
    parser.add_argument("--least-requests", type=int, default=8, help="of each row")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="in servers' names")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--model", type=Path, metavar="DIR", help="Hugging Face directory")
    parser.add_argument(
        "--servers", type=Path, default=Path(__file__).with_name("servers.toml"), metavar="TOML"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The same load against several servers.")
    add_options(parser)
    given = parser.parse_args()
    results = run(given, tell)
    print(tables(results))


if __name__ == "__main__":
    main()
