"""`make bench`: starts this server on a free port and loads it with 1, 4, 8 and 16 clients."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.load_client import measure, parser, table

PROJECT = Path(__file__).resolve().parent.parent


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("-c", "--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    options.add_argument("-n", "--requests", type=int, default=32)
    options.add_argument("--max-tokens", type=int, default=64)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LLMAPI_VAR_DIR": folder, "LLMAPI_PORT": "0"}
        converted = PROJECT / "var" / "models"
        if converted.is_dir():  # do not convert the embedded model again
            (Path(folder) / "models").symlink_to(converted)
        server = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            url, model, key = ready(server)
            counts = ["-n", str(given.requests), "--max-tokens", str(given.max_tokens)]
            clients = ["-c", *map(str, given.clients)]
            rows = measure(parser().parse_args([url, model, "--key", key, *counts, *clients]))
        finally:
            server.terminate()
            server.wait(60)
    print(table(rows))
    base = rows[0]["tokens/s"]
    for row in rows[1:]:
        print(f"{row['clients']} clients: {row['tokens/s'] / base:.1f} times the throughput of one")


def ready(server: "subprocess.Popen[str]") -> tuple[str, str, str]:
    """The URL, the model and the first key that the server prints when it is ready."""
    key = ""
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"sk-[0-9A-Za-z]{46}", line):
            key = found[0]
        if found := re.match(r"llmapi serves (\S+) at (\S+)", line):
            return found[2], found[1], key
    raise SystemExit("the server ended before it was ready")


if __name__ == "__main__":
    main()
