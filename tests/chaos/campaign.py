"""One campaign: a server that is killed and started again, a client that writes its ledger."""

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import check
from tests.chaos.check import Violation
from tests.chaos.ledger import Ledger, read_ledger
from tests.serve.history import History
from tests.serve.server import PROJECT_DIR, ServerUnderTest, until

RECONCILE_S = 5.0
"""How long rows of a dead process may be left `running` once a server is up again."""

LONGEST_LIFE_S = 1.2
TRAFFIC = 3
"""So many requests are accepted and finished in each life of the server before it may be killed."""


@dataclass
class Report:
    """What a campaign brought. `kills`: what was killed; `starts_s`: until each was ready."""

    kills: list[str] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    bystander: Ledger = field(default_factory=Ledger)
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        broken = len(self.ledger.told) - len(self.ledger.finished)
        return (
            f"{len(self.kills)} kills, {len(self.ledger.told)} requests accepted, "
            f"{len(self.ledger.finished)} finished, {broken} broken off; "
            f"bystander: {len(self.bystander.told)} accepted; "
            f"ready after {max(self.starts_s):.1f} s at most\n{check.report(self.violations)}"
        )


@contextlib.contextmanager
def client(server: ServerUnderTest, ledger: Path, *options: str) -> Iterator[None]:
    """A client process for as long as the block; it ends with the requests that it has begun."""
    arguments = [server.url, server.new_key(), str(ledger), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.client", *arguments],
        cwd=PROJECT_DIR,
        stdin=subprocess.PIPE,
    )
    try:
        yield
        process.communicate(timeout=60)
        assert process.returncode == 0, "the client itself failed"
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run_campaign(
    server: ServerUnderTest,
    folder: Path,
    *,
    kills: int,
    seed: int,
    bystander: ServerUnderTest | None = None,
    engine_too: bool = True,
    reconcile_s: float = RECONCILE_S,
    mid_stream: bool = False,
) -> Report:
    """Kill `server` so many times and start it again on the same database and port.

    `bystander`: a second server on that database, which nobody kills and which streams all the
    time. `engine_too`: web and engine die together in half of the cases; else, or where there is no
    engine, the web process alone. `mid_stream`: no kill comes while nothing is under way, so that
    one kill is enough to find out a broken build; the first never does.
    """
    chance = random.Random(seed)
    history = History(server.var_dir, server.database_url)
    result = Report()
    ledger, beside = folder / f"client{seed}.jsonl", folder / f"bystander{seed}.jsonl"
    start(server, result)
    with contextlib.ExitStack() as stack:
        if bystander is not None:
            bystander.start()
            bystander.wait_ready()
            living = {history.process_of(bystander.pid)}
            stack.enter_context(client(bystander, beside, "--workers", "2", "--long", "400"))
        long = ("--long", "60") if mid_stream else ()
        stack.enter_context(client(server, ledger, "--seed", str(seed), *long))
        for number in range(kills):
            wait_for_traffic(ledger)
            # Random on purpose: at any moment of any request.
            time.sleep(chance.uniform(0, LONGEST_LIFE_S))
            process = history.process_of(server.pid)
            alive: list[str] = []
            if bystander is not None:
                alive = until(lambda: history.running_of(living), "the bystander streams")
            if mid_stream or number == 0:
                until(lambda: under_way(ledger), "a request is under way")
            if engine_too and chance.random() < 0.5:
                result.kills.append("web and engine")
                server.kill()
            else:
                result.kills.append("web")
                server.kill_web_alone()
            start(server, result)
            result.violations += left_running(history, {process}, reconcile_s)
            result.violations += check.still_alive(alive, history.read())
        wait_for_traffic(ledger)
    result.ledger, result.bystander = read_ledger(ledger), read_ledger(beside)
    stored = history.read()
    both = Ledger(
        result.ledger.told | result.bystander.told,
        result.ledger.refused + result.bystander.refused,
    )
    result.violations += check.violations(both, stored)
    result.violations += check.all_finished(result.bystander)
    return result


def start(server: ServerUnderTest, result: Report) -> None:
    server.start()
    server.wait_ready()
    result.starts_s.append(server.ready_after_s)


def wait_for_traffic(path: Path) -> None:
    """Until the client has seen some requests accepted and finished from now on."""
    before = read_ledger(path)

    def flows() -> bool:
        now = read_ledger(path)
        return (
            len(now.told) >= len(before.told) + TRAFFIC
            and len(now.finished) >= len(before.finished) + TRAFFIC
        )

    until(flows, "the client's requests are answered", 60)


def under_way(path: Path) -> bool:
    """Whether the client was told that a request is accepted, and not yet how it ended."""
    return any(
        told.public_id is not None and told.finished is None and told.partial is None
        for told in read_ledger(path).told.values()
    )


def left_running(history: History, processes: set[int], within_s: float) -> list[Violation]:
    """What dead processes have running even after the time in which it must be found."""
    deadline = time.monotonic() + within_s
    while (ids := history.running_of(processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [Violation("left_running", public_id, f"after {within_s:g} s") for public_id in ids]
