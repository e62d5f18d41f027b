"""`make chaos`: a hundred kills on each database, and every build that is broken on purpose.

    python -m tests.chaos [--kills N] [--database sqlite|postgres] [--no-controls]

Exits with 1 if a promise was broken, or a broken build was not found out.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.campaign import Report, plan_of, run_campaign
from tests.chaos.controls import CONTROLS, ON_AN_ENGINE, run_controls, variant
from tests.environment import POSTGRES_URL
from tests.serve.history import Databases
from tests.serve.server import free_port
from tests.serve.servers import Servers, unique_name, write_nonsense

DATABASES = {"sqlite": None, "postgres": POSTGRES_URL}


@contextlib.contextmanager
def servers_on(database: str, folder: Path) -> Iterator[Servers]:
    """With the tiny model; their databases are dropped in the end."""
    databases = Databases(DATABASES[database], unique_name("chaos"))

    def new_folder() -> Path:
        return Path(tempfile.mkdtemp(dir=folder))

    try:
        with Servers(databases, write_nonsense(folder / "nonsense"), new_folder) as servers:
            yield servers
    finally:
        databases.drop_all()


def campaigns(servers: Servers, folder: Path, kills: int) -> list[Report]:
    """Half of the kills alone, half beside a living web process; at the same time, for much of it
    is waiting for starts."""
    alone = servers(port=free_port(), **variant("sound", has_engine=True))
    accompanied = servers(port=free_port(), **variant("sound", has_engine=True))
    bystander = servers.beside(accompanied, **variant("sound"))
    plans = [
        plan_of(kills - kills // 2, has_bystander=False, seed=1),
        plan_of(kills // 2, has_bystander=True, seed=2),
    ]
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run_campaign, alone, folder, plans[0], seed=1, asking=ON_AN_ENGINE)
        two = pool.submit(
            run_campaign,
            *(accompanied, folder, plans[1]),
            seed=2,
            asking=ON_AN_ENGINE,
            bystander=bystander,
        )
        return [one.result(), two.result()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="on each database")
    parser.add_argument("--database", choices=DATABASES, help="this one alone")
    parser.add_argument("--no-controls", action="store_true")
    options = parser.parse_args()
    is_sound = True
    with tempfile.TemporaryDirectory(prefix="llmapi-chaos-") as name:
        databases = [options.database] if options.database else [*DATABASES]
        for database in databases if options.kills else ():
            folder = Path(name) / database
            folder.mkdir()
            with servers_on(database, folder) as servers:
                for report in campaigns(servers, folder, options.kills):
                    print(f"{database}: {report}", flush=True)
                    is_sound = is_sound and not report.violations
        if not options.no_controls:
            folder = Path(name) / "controls"
            folder.mkdir()
            with servers_on("sqlite", folder) as servers:
                is_sound = controls_are_caught(servers, folder) and is_sound
    return 0 if is_sound else 1


def controls_are_caught(servers: Servers, folder: Path) -> bool:
    """Prints which of the broken builds were found out."""
    caught = 0
    for control, report in run_controls(servers, folder, CONTROLS):
        is_caught = control.is_caught_by(report)
        caught += is_caught
        rules = ", ".join(sorted({violation.rule for violation in report.violations})) or "nothing"
        print(f"  {'caught' if is_caught else 'NOT CAUGHT'} {control.name}: {rules}", flush=True)
    print(f"controls caught {caught} of {len(CONTROLS)}", flush=True)
    return caught == len(CONTROLS)


if __name__ == "__main__":
    sys.exit(main())
