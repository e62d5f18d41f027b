"""Builds broken on purpose: a ledger that finds nothing wrong with one of them proves nothing."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.campaign import RECONCILE_S, Kill, Report, run_campaign
from tests.serve.server import ServerUnderTest, free_port
from tests.serve.servers import Servers

ECHO = {"model": None, "flags": (), "LLMAPI_ENGINE": "echo"}
STREAMS = ("--mixed", "0", "--long", "4", "--words", "60")
LONG_STREAMS = ("--mixed", "2", "--long", "2")
ON_AN_ENGINE = ("--mixed", "2", "--long", "2", "--keyed", "1", "--words", "5", "--tokens", "6000")


def variant(name: str, *, has_engine: bool = False) -> dict[str, object]:
    """Options of a server that runs tests/chaos/variant.py instead of manage.py."""
    script = {"script": ("-m", "tests.chaos.variant", name)}
    return script if has_engine else {**ECHO, **script}


@dataclass(frozen=True, slots=True)
class Control:
    """A broken build, how it is tried, and the rules that must be found broken, all of them."""

    name: str
    rules: frozenset[str]
    plan: tuple[Kill, ...] = (Kill("web"),)
    asking: Sequence[str] = STREAMS
    has_engine: bool = False
    has_bystander: bool = False
    reconcile_s: float = RECONCILE_S

    def run(self, servers: Servers, folder: Path) -> Report:
        server = servers(port=free_port(), **variant(self.name, has_engine=self.has_engine))
        bystander: ServerUnderTest | None = None
        if self.has_bystander:
            bystander = servers.beside(server, **variant("sound"))
        try:
            return run_campaign(
                server,
                folder,
                self.plan,
                seed=3,
                asking=self.asking,
                bystander=bystander,
                reconcile_s=self.reconcile_s,
                until_found=True,
            )
        finally:
            server.end()

    def is_caught_by(self, report: Report) -> bool:
        return {violation.rule for violation in report.violations} >= self.rules


def control(name: str, *rules: str, **options: object) -> Control:
    return Control(name, frozenset(rules), **options)  # type: ignore[arg-type]


CONTROLS = (
    control("done_before_commit", "finished_is_completed_with_its_text"),
    control("accepted_before_commit", "accepted_is_stored"),
    control("done_before_journal", "finished_is_completed_with_its_text"),
    control(
        "never_replayed",
        "finished_is_completed_with_its_text",
        plan=(Kill("web", "journal_appended"),),
        asking=("--mixed", "6", "--keyed", "2"),
    ),
    control(
        "keys_forgotten",
        "nothing_is_stored_twice",
        plan=(Kill("web", "end_committed"),),
        asking=("--mixed", "0", "--keyed", "3"),
    ),
    control("text_cut_short", "finished_is_completed_with_its_text"),
    control("no_sweep", "left_running", "nothing_is_running", reconcile_s=0.5),
    control("sweeps_the_living", "still_alive", has_bystander=True),
    control("stored_twice", "accepted_is_stored_once", "nothing_is_stored_twice"),
    control("asked_cut_short", "what_was_asked_is_stored"),
    control(
        "never_flushed",
        "a_running_text_is_flushed",
        plan=(Kill("web", flushed=True),),
        asking=LONG_STREAMS,
    ),
    control(
        "interrupted_without_text",
        "what_was_flushed_is_kept",
        plan=(Kill("web", flushed=True),),
        asking=LONG_STREAMS,
    ),
    control(
        "flushed_elsewhere",
        "partial_text_is_of_the_same_answer",
        plan=(Kill("web", "flush_committed"),),
        asking=LONG_STREAMS,
    ),
    control(
        "engine_death_untold",
        "an_engines_death_is_told",
        plan=(Kill("engine"),),
        asking=ON_AN_ENGINE,
        has_engine=True,
    ),
)

QUICK = ("done_before_commit", "accepted_before_commit", "text_cut_short", "no_sweep")
"""Those that `make test` tries; all of them are `make chaos`'s."""


def run_controls(
    servers: Servers, folder: Path, controls: Sequence[Control]
) -> Iterator[tuple[Control, Report]]:
    """A few at a time, for most of each is waiting."""

    def run(one: Control) -> Report:
        place = folder / one.name
        place.mkdir()
        return one.run(servers, place)

    with ThreadPoolExecutor(3) as pool:
        yield from zip(controls, pool.map(run, controls), strict=True)
