"""Real servers for what is measured: a model, a database, and nothing of the developer's own."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from benchmarks.model import model_directory
from tests.environment import POSTGRES_URL
from tests.serve.history import Databases
from tests.serve.server import ServerUnderTest
from tests.serve.servers import Servers, unique_name, write_nonsense

DatabaseName = Literal["SQLite", "PostgreSQL"]
DATABASES: tuple[DatabaseName, ...] = ("SQLite", "PostgreSQL")

ALL_CORES = {"LLMAPI_THREADS": str(len(os.sched_getaffinity(0)))}
FLAGS = tuple(os.environ.get("RELIABILITY_FLAGS", "--only_cpu").split())
"""For the embedded model: `--only_cpu --load_in_8bit` measures 8-bit weights."""

ECHO = {"model": None, "flags": (), "LLMAPI_ENGINE": "echo"}
"""Options of a server without a model."""


@contextlib.contextmanager
def servers_on(
    database: DatabaseName, folder: Path, *, model: Literal["real", "tiny", "none"] = "none"
) -> Iterator[Servers]:
    """`real`: the embedded SmolLM2-135M; `tiny`: one that writes nonsense at great speed, as long
    as is asked. Logs of the servers are shown when the block fails."""
    url = POSTGRES_URL if database == "PostgreSQL" else None
    databases = Databases(url, unique_name("reliability"))
    nonsense = folder / "nonsense"
    if model == "tiny" and not nonsense.exists():
        write_nonsense(nonsense)

    def new_folder() -> Path:
        return Path(tempfile.mkdtemp(dir=folder))

    directory = {"real": model_directory, "tiny": lambda: nonsense, "none": lambda: None}[model]()
    servers = Servers(databases, directory, new_folder)
    try:
        yield servers
    except BaseException:
        for server in servers.made:
            print_tail(server)
        raise
    finally:
        servers.end()
        databases.drop_all()


def started(server: ServerUnderTest, timeout_s: float = 300) -> ServerUnderTest:
    server.start()
    server.wait_ready(timeout_s)
    return server


def print_tail(server: ServerUnderTest, lines: int = 40) -> None:
    print(*server.log.splitlines()[-lines:], sep="\n", file=sys.stderr)
