"""One campaign: a server that is killed and started again, a client that writes its ledger."""

import contextlib
import itertools
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.chaos import check
from tests.chaos.check import Violation
from tests.chaos.failpoints import IN_A_START, POINTS, REPLAYS
from tests.chaos.ledger import Ledger, read_ledger
from tests.serve.history import History
from tests.serve.server import PROJECT_DIR, ServerUnderTest, until

RECONCILE_S = 5.0
"""How long rows of a dead process may be left `running` once a server is up again."""

TELL_S = 2.0
"""How long an engine's death may go untold to those who wait for it."""

NOISE_S = 8.0
"""What a machine with much to do may add to that before it counts as never."""

NEVER_S = 20.0
"""In which a text that runs for seconds is flushed, on any machine."""

LONGEST_LIFE_S = 1.2
TRAFFIC = 3
"""So many requests are accepted and finished in each life of the server before it may be killed."""

BYSTANDERS_WORDS = "1000"
"""Ten seconds of a stream, so that it outlasts the start of the server that was killed."""

TIMES = {
    "flush_before_commit": (1, 2),  # once a second
    "flush_committed": (1, 2),
    "journal_appended": (2, 3),  # some have heard of their end then; nobody new is accepted
    "replay_before_commit": (1, 2),
    "replay_committed": (1, 1),
    "sweep_before_commit": (2, 2),  # one is ended then, and one is not
    "sweep_one_committed": (1, 1),
}
"""Least and most times that a point is reached before it kills."""

OTHER_TIMES = (1, 6)

Target = Literal["web", "engine", "both"]


@dataclass(frozen=True, slots=True)
class Kill:
    """Who dies, and where in a request's life. `point` None: at a random moment; `flushed`: of
    those, one at which some of a running text is stored."""

    target: Target
    point: str | None = None
    flushed: bool = False

    @property
    def needs_arms(self) -> bool:
        """The server must be started for it."""
        return self.point is not None and self.point not in IN_A_START

    def __str__(self) -> str:
        return f"{self.target} {self.point or 'any time'}"


def plan_of(kills: int, *, has_bystander: bool, seed: int) -> list[Kill]:
    """So many kills: every target at every point, and as many at random moments, in an order that
    the seed shuffles; as often as there is room. (Beside a bystander nobody dies in a start, for
    that one has replayed and swept within a second.)"""
    chance = random.Random(seed)
    targets: tuple[Target, ...] = ("web", "both", "engine")
    at_points = [
        Kill(target, point) for point in POINTS for target in targets if point not in IN_A_START
    ]
    at_points.remove(Kill("engine", "journal_appended"))  # the web process keeps the journal
    if not has_bystander:
        at_points += [Kill("web", point) for point in IN_A_START]
    at_random = [Kill(t, flushed=i % 3 == 0) for i, t in enumerate(targets * len(POINTS))]
    plan: list[Kill] = []
    while len(plan) < kills:
        deck = [*at_points, *at_random]
        chance.shuffle(deck)
        plan += deck
    return plan[:kills]


@dataclass
class Report:
    """What a campaign brought. Times in seconds; `told_s`: from an engine's death until the last of
    its requests heard of it, each time; `unkept_s`: how old the oldest text was that a client had
    of a broken stream, and that is not stored."""

    kills: list[Kill] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    engine_back_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    unkept_s: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    bystander: Ledger = field(default_factory=Ledger)
    violations: list[Violation] = field(default_factory=list)

    @property
    def points(self) -> Counter[str]:
        """How often each was where something died."""
        return Counter(kill.point for kill in self.kills if kill.point is not None)

    @property
    def summary(self) -> str:
        harm = ", ".join(f"{count} {name}" for name, count in check.harm(self.violations).items())
        return (
            f"{len(self.kills)} kills ({sum(self.points.values())} at {len(self.points)} named "
            f"points), {len(self.ledger.told)} requests accepted, {len(self.ledger.finished)} "
            f"finished, {len(self.ledger.told) - len(self.ledger.finished)} broken off: {harm}"
        )

    def __str__(self) -> str:
        lines = [self.summary]
        counts = Counter(map(str, self.kills))
        lines.append(", ".join(f"{kill} {count}" for kill, count in sorted(counts.items())))
        if self.bystander.told:
            told, finished = len(self.bystander.told), len(self.bystander.finished)
            lines.append(f"bystander: {told} accepted, {finished} finished")
        lines.append(
            f"ready {max(self.starts_s, default=0):.1f} s after a start at most; of broken streams "
            f"all is stored but the last {self.unkept_s:.1f} s at most"
        )
        if self.engine_back_s:
            lines.append(
                f"of a dead engine the last request heard after {max(self.told_s):.2f} s at most; "
                f"ready again after {max(self.engine_back_s):.1f} s at most"
            )
        return "\n".join([*lines, check.report(self.violations)])


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
        process.communicate(timeout=90)
        assert process.returncode == 0, "the client itself failed"
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def run_campaign(
    server: ServerUnderTest,
    folder: Path,
    plan: Sequence[Kill],
    *,
    seed: int,
    asking: Sequence[str] = ("--mixed", "3", "--long", "1", "--keyed", "2"),
    bystander: ServerUnderTest | None = None,
    reconcile_s: float = RECONCILE_S,
    until_found: bool = False,
) -> Report:
    """Kill `server` as planned, each time starting it again on the same database and port.

    `server` runs tests.chaos.variant. `asking`: options of its client. `bystander`: a second server
    on that database, which nobody kills and which streams all the time. `until_found`: no more
    kills once a promise is found broken.
    """
    history = History(server.var_dir, server.database_url)
    ledger, beside = folder / f"client{seed}.jsonl", folder / f"bystander{seed}.jsonl"
    campaign = Campaign(server, history, ledger, folder / f"mark{seed}", seed, reconcile_s)
    report = campaign.report
    with contextlib.ExitStack() as stack:
        campaign.start(plan[0])
        if bystander is not None:
            bystander.start()
            bystander.wait_ready()
            campaign.living = {history.process_of(bystander.pid)}
            streams = ("--mixed", "0", "--long", "2", "--words", BYSTANDERS_WORDS)
            stack.enter_context(client(bystander, beside, *streams))
        stack.enter_context(client(server, ledger, "--seed", str(seed), *asking))
        for kill, following in itertools.zip_longest(plan, plan[1:]):
            campaign.die(kill, following)
            if until_found and report.violations:
                server.kill()  # so that its client ends
                break
        else:
            wait_for_traffic(ledger)
    report.ledger, report.bystander = read_ledger(ledger), read_ledger(beside)
    for told in report.ledger.broken:
        if any(began <= (told.ended_at or 0) <= ended + TELL_S for began, ended in campaign.away):
            told.ages = []  # a database that is away takes no flush
    stored = history.read()
    report.unkept_s = check.unkept_s(report.ledger, stored)
    report.violations += check.violations(report.ledger | report.bystander, stored)
    report.violations += check.all_finished(report.bystander)
    return report


class Campaign:
    """The server's lives and deaths, one after the other."""

    def __init__(
        self,
        server: ServerUnderTest,
        history: History,
        ledger: Path,
        mark: Path,
        seed: int,
        reconcile_s: float,
    ) -> None:
        self.server = server
        self.history = history
        self.ledger = ledger
        self.mark = mark
        self.chance = random.Random(seed)
        self.reconcile_s = reconcile_s
        self.living: set[int] = set()
        """Rows of server processes that nobody kills."""
        self.away: list[tuple[float, float]] = []
        """From when to when the database took nothing."""
        self.report = Report()

    # ---- lives ----------------------------------------------------------------------------------

    def start(self, kill: Kill | None) -> None:
        """Start it, armed if `kill` is to come at a point of its coming life."""
        self.launch(kill if kill is not None and kill.needs_arms else None)
        self.server.wait_ready()
        self.report.starts_s.append(self.server.ready_after_s)

    def launch(self, armed: Kill | None) -> None:
        self.mark.unlink(missing_ok=True)
        self.server.variables.pop("CHAOS_KILL", None)
        if armed is not None:
            times = self.chance.randint(*TIMES.get(armed.point or "", OTHER_TIMES))
            self.server.variables |= {
                "CHAOS_KILL": f"{armed.point}:{armed.target}:{times}",
                "CHAOS_MARK": str(self.mark),
            }
        self.server.start()

    # ---- deaths ---------------------------------------------------------------------------------

    def die(self, kill: Kill, following: Kill | None) -> None:
        """One kill, and what must be true after it; then the server is up, and ready for the
        next."""
        process = self.history.process_of(self.server.pid)
        if kill.target == "engine":
            self.engine_dies(kill)
            if following is not None and following.needs_arms:
                # A server is armed when it starts, so another kill has to come first.
                self.die(Kill("web"), following)
            return
        if kill.point in IN_A_START:
            self.start_dies(kill, process)
        else:
            self.server_dies(kill)
        flushed = self.history.flushed_of({process})
        alive: list[str] = []
        if self.living:
            alive = until(lambda: self.history.running_of(self.living), "the bystander streams")
        self.start(following)
        self.report.violations += left_running(self.history, {process}, self.reconcile_s)
        stored = self.history.read()
        self.report.violations += check.what_was_flushed_is_kept(flushed, stored)
        self.report.violations += check.still_alive(alive, stored)

    def server_dies(self, kill: Kill) -> None:
        began = time.time()
        if kill.point is not None:
            self.server.wait_killed()
            if kill.point == "journal_appended":
                self.away.append((began, time.time()))
        else:
            self.wait_for_a_moment(kill)
            if kill.target == "both":
                self.server.kill()
            else:
                self.server.kill_web_alone()
        self.report.kills.append(kill)

    def start_dies(self, kill: Kill, process: int) -> None:
        """One process leaves requests running, or ends in its journal; the next one dies in looking
        after them."""
        until(lambda: len(self.history.running_of({process})) >= 2, "two requests are running", 60)
        self.server.kill_web_alone()
        self.report.kills.append(Kill("web"))
        if kill.point in REPLAYS:
            before = Kill("web", "journal_appended")
            self.start(before)
            self.server_dies(before)
        self.launch(kill)
        self.server.wait_killed()
        self.report.kills.append(kill)

    def engine_dies(self, kill: Kill) -> None:
        """The web process lives on: it tells all who wait, and has another engine."""
        pid, engine = self.server.pid, self.server.engine_pid
        if kill.point is not None:
            killed_at = float(until(self.read_mark, f"{kill.point} is reached", 60))
        else:
            self.wait_for_a_moment(kill)
            killed_at = time.time()
            self.server.kill_engine()
        self.report.kills.append(kill)
        self.report.violations += self.untold(killed_at)
        until(
            lambda: (
                self.server.engine_pid not in (None, engine) and self.server.ready_status() == 200
            ),
            "it is ready again",
            120,
        )
        self.report.engine_back_s.append(time.time() - killed_at)
        assert (self.server.pid, self.server.running.poll()) == (pid, None), "it went away itself"

    def untold(self, killed_at: float) -> list[Violation]:
        """Whoever waited for an engine hears of its death."""
        deadline = time.monotonic() + TELL_S + NOISE_S

        def waiting() -> list[str]:
            told = read_ledger(self.ledger).under_way
            return [t.request for t in told if t.accepted_at < killed_at]

        while (left := waiting()) and time.monotonic() < deadline:
            time.sleep(0.02)
        ended = [t.ended_at for t in read_ledger(self.ledger).broken if t.error == "engine_lost"]
        after = [at - killed_at for at in ended if at is not None and at >= killed_at]
        self.report.told_s.append(max(after, default=0.0))
        seen = f"not told within {TELL_S + NOISE_S:g} s"
        return [Violation("an_engines_death_is_told", request, seen) for request in left]

    def read_mark(self) -> str:
        return self.mark.read_text() if self.mark.exists() else ""

    def wait_for_a_moment(self, kill: Kill) -> None:
        """Any moment of any request, on purpose; while something is under way, so that one kill is
        enough to find out a broken build."""
        wait_for_traffic(self.ledger)
        time.sleep(self.chance.uniform(0, LONGEST_LIFE_S))
        until(lambda: read_ledger(self.ledger).under_way, "a request is under way", 60)
        if kill.flushed:
            self.wait_for_a_flush()

    def wait_for_a_flush(self) -> None:
        process = self.history.process_of(self.server.pid)
        deadline = time.monotonic() + NEVER_S
        while not any(self.history.flushed_of({process}).values()):
            if time.monotonic() > deadline:
                seen = f"none for {NEVER_S:g} s"
                self.report.violations.append(Violation("a_running_text_is_flushed", "-", seen))
                return
            time.sleep(0.05)


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


def left_running(history: History, processes: set[int], within_s: float) -> list[Violation]:
    """What dead processes have running even after the time in which it must be found."""
    deadline = time.monotonic() + within_s
    while (ids := history.running_of(processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [Violation("left_running", public_id, f"after {within_s:g} s") for public_id in ids]
