"""The README in English and the one in Chinese say the same, as far as a machine can tell; and
what the documentation points to is there."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
PAGES = [ENGLISH, CHINESE, *(f"docs/{page.name}" for page in (PROJECT / "docs").glob("*.md"))]

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    return FENCED.sub("", read(page))


def headings(page: str) -> list[tuple[str, str]]:
    """(level, text)"""
    return re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)


def code_spans(page: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", prose(page)))


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")


def test_both_readmes_have_the_same_code_blocks():
    blocks = FENCED.findall(read(ENGLISH))
    assert len(blocks) > 5
    assert FENCED.findall(read(CHINESE)) == blocks


def test_both_readmes_have_the_same_headings():
    levels = [level for level, _ in headings(ENGLISH)]
    assert len(levels) > 5
    assert [level for level, _ in headings(CHINESE)] == levels


def test_both_readmes_name_the_same_settings_routes_and_commands():
    assert code_spans(CHINESE) == code_spans(ENGLISH)


def test_each_readme_links_to_the_other():
    assert f"]({CHINESE})" in read(ENGLISH)
    assert f"]({ENGLISH})" in read(CHINESE)


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        file = (PROJECT / page).parent / path if path else PROJECT / page
        assert file.exists(), f"{page}: {target}"
        if fragment:
            found = [anchor(text) for _, text in headings(str(file.resolve()))]
            assert fragment in found, f"{page}: {target} (there are {found})"
