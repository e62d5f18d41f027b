"""Starting and ending the servers that are compared; servers.toml lists them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load_client import Load
from benchmarks.model import PROJECT

TABLE = Path(__file__).with_name("servers.toml")
PLACEHOLDER = re.compile(r"\{([A-Z_]+)\}")
PER_START = ("PORT", "TMP")
"""Settings that each start has anew."""

NOT_INHERITED = ("DATABASE_URL", "SECRET_KEY", "LLMAPI_BASE_MODEL", "LLMAPI_PORT", "LLMAPI_HOST")
"""A benchmark must never write into the database of the server that lives here."""


class NotStarted(Exception):
    """Why a server cannot be measured, in a sentence."""


@dataclass(frozen=True)
class Server:
    """One entry of servers.toml."""

    name: str
    model: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    key: list[str] | None = None
    """A command that prints an API key, when the server is ready."""

    version: list[str] | None = None
    ready: str = "/health"
    ready_timeout_s: float = 300
    extra: dict[str, Any] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    clients: list[int] | None = None
    """Only these numbers of clients; None: all."""

    most_requests: int | None = None


@dataclass
class Running:
    """A started server."""

    server: Server
    pid: int
    url: str
    environment: dict[str, str]
    settings: dict[str, str]
    key: str | None = None

    def load(self, **changes: Any) -> Load:
        model = filled(self.server.model, self.settings)
        values = {"key": self.key, "extra": self.server.extra, "drop": self.server.drop} | changes
        return Load(self.url, model, **values)

    def new_key(self) -> str | None:
        """Of a user of its own, where the server knows users."""
        if self.server.key is None:
            return None
        *command, user = (filled(word, self.settings) for word in self.server.key)
        return self._output([*command, f"{user}-{os.urandom(3).hex()}"])

    def _output(self, command: list[str]) -> str:
        result = subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=True
        )
        return result.stdout.strip()


def read_servers(path: Path = TABLE) -> list[Server]:
    return [Server(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["server"]]


def chosen_server(name: str) -> Server:
    servers = {server.name: server for server in read_servers()}
    if name not in servers:
        raise SystemExit(f"there is no server '{name}' in {TABLE.name}: {', '.join(servers)}")
    return servers[name]


def settings_from(given: list[str], model: Path) -> dict[str, str]:
    """What placeholders stand for: BENCH_ variables, and `NAME=VALUE` over them."""
    found = {n.removeprefix("BENCH_"): v for n, v in os.environ.items() if n.startswith("BENCH_")}
    found |= dict(entry.split("=", 1) for entry in given)
    cores = str(len(os.sched_getaffinity(0)))
    return {"CORES": cores, **found, "MODEL": str(model), "PYTHON": sys.executable}


def filled(text: str, settings: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: settings[match[1]], text)


def why_not_installed(server: Server, settings: Mapping[str, str]) -> str | None:
    """None if it can be tried."""
    words = [*server.command, *server.env.values()]
    needed = dict.fromkeys(name for word in words for name in PLACEHOLDER.findall(word))
    missing = [name for name in needed if name not in settings and name not in PER_START]
    if missing:
        return "not set: " + ", ".join(f"BENCH_{name}" for name in missing)
    program = filled(server.command[0], settings)
    if shutil.which(program) is None:
        return f"{Path(program).name} is not where its setting says"
    return None


def version_of(server: Server, settings: Mapping[str, str]) -> str | None:
    if server.version is None:
        return None
    command = [filled(word, settings) for word in server.version]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter((said.stdout + said.stderr).strip().splitlines()), None)


@contextmanager
def started(server: Server, settings: Mapping[str, str]) -> Iterator[Running]:
    """The server, ready to answer; it and all its children are ended at the end, also when the
    benchmark is terminated. Raises NotStarted."""
    with (
        sigterm_as_exit(),
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
    ):
        port = free_port()
        all_settings = {**settings, "PORT": str(port), "TMP": folder}
        inherited = {n: v for n, v in os.environ.items() if n not in NOT_INHERITED}
        environment = inherited | {n: filled(v, all_settings) for n, v in server.env.items()}
        (Path(folder) / "empty.env").touch()
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [filled(word, all_settings) for word in server.command],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            running = Running(
                server, process.pid, f"http://127.0.0.1:{port}", environment, all_settings
            )
            wait_ready(running, process, log)
            running.key = running.new_key()
            yield running
        finally:
            end(process)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Otherwise SIGTERM runs no `finally`, and a server would go on and keep the machine busy."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_ready(running: Running, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + running.server.ready_timeout_s
    while not answers(running.url + running.server.ready):
        if process.poll() is not None:
            raise NotStarted(f"it ended while it started: {last_line(log)}")
        if time.monotonic() > deadline:
            raise NotStarted(f"not ready after {running.server.ready_timeout_s:.0f} s")
        time.sleep(0.5)


def answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), direct.open(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


def last_line(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def end(process: "subprocess.Popen[bytes]", patience_s: float = 30) -> None:
    """Ask its whole process group, then insist."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
