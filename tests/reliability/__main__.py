"""Measures the promises and prints the table: all of them, or those that are named.

python -m tests.reliability [NAME ...]
"""

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

from tests.reliability.finding import HEAD

NAMES: tuple[str, ...] = ("overload", "fairness")
"""The modules of this package that measure something, in the order of the table."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no {unknown[0]}; there are {', '.join(NAMES)}")
    with tempfile.NamedTemporaryFile(suffix=".env") as nothing:
        os.environ.setdefault("LLMAPI_ENV_FILE", nothing.name)
        findings = []
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix=f"llmapi-{name}-") as folder:
                finding = importlib.import_module(f"tests.reliability.{name}").measure(Path(folder))
            print(finding.row, file=sys.stderr, flush=True)
            findings.append(finding)
    print(HEAD, *(finding.row for finding in findings), sep="\n")
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
