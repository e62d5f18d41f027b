"""No version is installed, nor would be by the requirements, that is known to be unsafe."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "Django": "5.2.17",
    "djangorestframework": "3.17.2",
    "daphne": "4.2.2",
    "transformers": "5.23",
    "torch": "2.10",
    "jinja2": "3.1.6",
}


def requirements() -> dict[str, Requirement]:
    """By their names in lower case, of all requirements*.txt."""
    found = {}
    for path in sorted(ROOT.glob("requirements*.txt")):
        for line in path.read_text().splitlines():
            text = line.partition("#")[0].strip()
            if text and not text.startswith("-"):
                requirement = Requirement(text)
                found[requirement.name.lower()] = requirement
    return found


@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_what_is_installed_is_above_the_floor(package: str, floor: str) -> None:
    assert Version(version(package)) >= Version(floor)


@pytest.mark.parametrize(("package", "floor"), FLOORS.items())
def test_what_may_be_installed_is_above_the_floor(package: str, floor: str) -> None:
    specifiers = requirements()[package.lower()].specifier
    lowest = [s.version for s in specifiers if s.operator in (">=", "==", "~=", ">")]
    assert lowest, f"{package} has no lower bound"
    assert max(map(Version, lowest)) >= Version(floor)
    assert version(package).partition("+")[0] in specifiers, "what the tests ran with"


def test_every_requirement_has_a_lower_bound_and_a_reason() -> None:
    for name, requirement in requirements().items():
        assert any(s.operator in (">=", "==", "~=") for s in requirement.specifier), name
    for path in sorted(ROOT.glob("requirements*.txt")):
        for block in re.split(r"\n\s*\n", path.read_text().strip()):
            assert "#" in block or path.name == "requirements-dev.txt", f"{path.name}: {block}"
