"""`make bench`: what this server does on this machine, beside its limits and the peers that are
installed.

    make bench                                       all of it
    make bench ARGS="--only ours --rounds 3"         other options: see side_by_side.py
    make bench ARGS="--quick"                        a few requests: does it all work?

docs/benchmarks.md says what the tables mean and how peers are named.
"""

import argparse
import subprocess
import sys

from benchmarks.model import PROJECT
from benchmarks.results import tables
from benchmarks.servers import sigterm_as_exit
from benchmarks.side_by_side import add_options, run, tell

QUICK = {"clients": [1, 4], "rounds": 1, "per_client": 1, "least_requests": 2, "max_tokens": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description="All benchmarks.")
    add_options(parser)
    parser.set_defaults(rounds=1, json=PROJECT / "var" / "benchmarks.json")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        vars(given).update(QUICK)
    results = run(given, tell)
    print(tables(results), flush=True)
    fast = "ours, 8-bit" not in results["skipped"] and "ours, 8-bit" in results["servers"]
    model = ["--model", str(given.model)] if given.model else []
    server = ["--server", "ours, 8-bit" if fast else "ours, fp32", *model]
    most = str(max(given.clients))
    load = ["--per-client", str(given.per_client), "--max-tokens", str(given.max_tokens)]
    load += ["--rounds", str(given.rounds), *model]
    chapter(
        "The engine alone, and what the whole API costs over it",
        "engine_bench",
        ["-c", most, "--api", *load, *["--load_in_8bit"] * fast],
    )
    chapter("A chat's tenth turn", "turns", [*server, *["--chats", "1"] * given.quick])
    chapter(
        "A long prompt among running streams",
        "long_prompt",
        [*server, *["--trials", "1", "--tokens", "1000", "--idle-s", "2"] * given.quick],
    )


def chapter(title: str, module: str, arguments: list[str]) -> None:
    """In a process of its own: it shall neither find nor leave threads and memory here."""
    print(f"\n{title}:\n", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with sigterm_as_exit(), subprocess.Popen(command, cwd=PROJECT) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it ends its server, and the block waits for it
            raise
    if code:
        tell(f"benchmarks.{module} could not be run to its end")


if __name__ == "__main__":
    main()
