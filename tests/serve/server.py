"""A real `manage.py serve` in processes of its own, started and ended by a test."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx

T = TypeVar("T")

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
MANAGE = (str(PROJECT_DIR / "manage.py"),)
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
METRICS_TOKEN = "what-prometheus-sends-in-tests"
SERVES = re.compile(r"^llmapi serves .+ at (http://\S+) \(", re.MULTILINE)
OURS = (
    *("LLMAPI_", "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ALLOWED_HOSTS", "DEBUG"),
    "DJANGO_SETTINGS_MODULE",
)


def until(condition: Callable[[], T], what: str | Callable[[], str], timeout_s: float = 30.0) -> T:
    """The condition's first true value. Raises AssertionError naming what did not come."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            named = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout_s:g} s: {named}")
        time.sleep(0.02)


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerUnderTest:
    """One server: its variables, its processes, its logs. It may be started again after its end.

    It leads a process group, to which its engine belongs; `end` leaves nothing of that alive.
    """

    def __init__(
        self,
        var_dir: Path,
        model: Path | None,
        *,
        database_url: str | None = None,
        port: int = 0,
        flags: Sequence[str] = ("--only_cpu",),
        script: Sequence[str] = MANAGE,
        **variables: str,
    ) -> None:
        self.var_dir = var_dir
        self.model = model
        self.port = port
        self.flags = list(flags)
        self.script = list(script)
        self.database_url = database_url
        self.variables = variables
        self.process: subprocess.Popen[bytes] | None = None
        self.logs = var_dir.parent / f"{var_dir.name}-logs-{os.urandom(4).hex()}"
        self.logs.mkdir(parents=True)
        self.starts = 0

    # ---- starting -------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """This process's own, without what would configure another server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        ours = {
            "LLMAPI_VAR_DIR": str(self.var_dir),
            "LLMAPI_ENV_FILE": os.environ["LLMAPI_ENV_FILE"],
            "LLMAPI_THREADS": "1",
            "LLMAPI_KV_CACHE_TOKENS": "32768",
            "LLMAPI_METRICS_TOKEN": METRICS_TOKEN,
        }
        if self.database_url is not None:
            ours["DATABASE_URL"] = self.database_url
        return kept | ours | self.variables

    @property
    def arguments(self) -> list[str]:
        model = [] if self.model is None else ["--base_model", str(self.model)]
        return [*self.script, "serve", "--port", str(self.port), *model, *self.flags]

    def start(self) -> None:
        """Returns at once; `wait_ready` waits."""
        assert self.process is None, "it runs already"
        self.starts += 1
        self.out_path = self.logs / f"{self.starts}.out"
        self.err_path = self.logs / f"{self.starts}.err"
        self.started_at = time.monotonic()
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=PROJECT_DIR,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Wait for the line that says where it serves; returns the URL."""
        process = self.running

        def serves() -> re.Match[str] | None:
            assert process.poll() is None, f"the server ended while it started\n{self.log}"
            return SERVES.search(self.out)

        found = until(serves, lambda: f"the server is ready\n{self.log}", timeout_s)
        self.ready_after_s = time.monotonic() - self.started_at
        self.url = found[1]
        return self.url

    def run(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Start one that is expected to end by itself; returns its exit code."""
        self.start()
        return self.wait_exit(timeout_s)

    def manage(self, *arguments: str) -> str:
        """What another command of manage.py, with the same variables, prints on stdout."""
        done = subprocess.run(
            [sys.executable, *MANAGE, *arguments],
            cwd=PROJECT_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def new_key(self, username: str = "alice") -> str:
        return self.manage("createkey", username).strip()

    # ---- asking ---------------------------------------------------------------------------------

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, "it was not started"
        return self.process

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def out(self) -> str:
        return self.out_path.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_path.read_text(errors="replace")

    @property
    def log(self) -> str:
        """Everything that all starts have printed."""
        paths = sorted(self.logs.iterdir(), key=lambda path: int(path.stem))
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')}" for p in paths)

    def ready_status(self) -> int:
        return httpx.get(f"{self.url}/ready", timeout=10).status_code

    def metrics(self) -> str:
        headers = {"Authorization": f"Bearer {self.environment['LLMAPI_METRICS_TOKEN']}"}
        answer = httpx.get(f"{self.url}/metrics", headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.text

    @property
    def engine_pid(self) -> int | None:
        """The engine process, once it has told its name to the kernel."""
        for pid in group_members(self.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "llmapi-engine":
                    return pid
        return None

    # ---- ending ---------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_exit(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code of one that ends by itself."""
        try:
            code = self.running.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive after {timeout_s:g} s\n{self.log}") from None
        finally:
            self.end()
        return code

    def stop(self) -> int:
        """SIGTERM and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def kill(self) -> None:
        """SIGKILL for web and engine at the same moment."""
        self.end()

    def kill_web_alone(self) -> None:
        """SIGKILL for the web process; its engine must then end by itself."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_killed()

    def kill_engine(self) -> None:
        """SIGKILL for the engine; the web process must then start another."""
        engine = self.engine_pid
        assert engine is not None, "it has no engine"
        os.kill(engine, signal.SIGKILL)

    def wait_killed(self, timeout_s: float = 60.0) -> None:
        """For one that kills its own web process: until that is dead, and its engine has ended."""
        pid = self.pid
        # Not reaped before the group is empty, so that nobody else can get the group's number.
        until(lambda: is_zombie(pid), lambda: f"it kills itself\n{self.log}", timeout_s)
        until(
            lambda: group_members(pid) <= {pid},
            "the engine of a killed web process ends",
            10,
        )
        self.end()

    def end(self) -> None:
        """Leave nothing alive, whatever state it is in."""
        if self.process is None:
            return
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


def is_zombie(pid: int) -> bool:
    """Whether a child of ours is dead and not reaped yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def group_members(group: int) -> set[int]:
    """The living processes of a process group, and a dead leader that nobody has reaped yet."""
    members = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # After the name, which may hold anything: state, parent, group.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and (fields[0] != "Z" or int(entry.name) == group):
                    members.add(int(entry.name))
    return members
