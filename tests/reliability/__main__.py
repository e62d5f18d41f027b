"""Measures the promises and prints the table: all of them, or those that are named.

python -m tests.reliability [NAME ...]
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tests.environment  # noqa: F401 (nothing of the developer's own reaches a server)
from tests.reliability.finding import HEAD
from tests.reliability.machine import facts

NAMES: tuple[str, ...] = (
    *("kills", "engine_death", "database_lost", "shutdown", "streams"),
    *("overload", "fairness"),
    *("probes", "malformed", "revocation", "secrets"),
)
"""The modules of this package that measure something, in the order of the table."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(NAMES)}")
    modules = [module_of(name) for name in names]  # all of them before the first takes minutes
    findings = []
    for name, module in zip(names, modules, strict=True):
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"llmapi-{name}-") as folder:
            finding = module.measure(Path(folder))
        took_s = time.monotonic() - began
        print(f"{finding.row} ({took_s:.0f} s)", file=sys.stderr, flush=True)
        findings.append(finding)
    print(*facts(), "", HEAD, *(finding.row for finding in findings), sep="\n")
    return 0 if all(finding.holds for finding in findings) else 1


def module_of(name: str) -> Any:
    try:
        return importlib.import_module(f"tests.reliability.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.reliability.{name}":
            raise
        sys.exit(f"'{name}' is in the table's NAMES, and there is no tests/reliability/{name}.py")


if __name__ == "__main__":
    sys.exit(main())
