"""The README and docs/models.md say the same in English and in Chinese, as far as a machine can
tell; and what the documentation points to is there."""

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


@pytest.fixture(params=[(ENGLISH, CHINESE), ("docs/models.md", "docs/models.zh-CN.md")])
def pages(request):
    """One page in English, and the same in Chinese."""
    return request.param


def test_both_have_the_same_code_blocks(pages):
    english, chinese = (FENCED.findall(read(page)) for page in pages)
    assert len(english) > 5
    assert chinese == english


def test_both_have_the_same_headings_and_tables(pages):
    english, chinese = ([level for level, _ in headings(page)] for page in pages)
    assert len(english) > 5
    assert chinese == english
    rows, theirs = (re.findall(r"^\|.*\|$", prose(page), re.MULTILINE) for page in pages)
    columns = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert len(rows) > 5
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in theirs] == columns


def test_both_name_the_same_settings_routes_and_commands(pages):
    english, chinese = map(code_spans, pages)
    assert chinese == english


def test_both_have_the_same_figures(pages):
    """Such as 6,885,494,784; years and months are written otherwise."""
    english, chinese = (set(re.findall(r"\d[\d,.]*\d", prose(page))) for page in pages)
    grouped = {figure for figure in english if "," in figure or "." in figure}
    assert grouped <= chinese


def test_each_links_to_the_other(pages):
    english, chinese = pages
    assert f"]({Path(chinese).name})" in read(english)
    assert f"]({Path(english).name})" in read(chinese)


def test_the_chinese_pages_mark_what_there_is_in_english_only():
    english_only = {p.name for p in (PROJECT / "docs").glob("*.md") if ".zh-CN." not in p.name}
    english_only -= {p.name.replace(".zh-CN", "") for p in (PROJECT / "docs").glob("*.zh-CN.md")}
    for page in (CHINESE, "docs/models.zh-CN.md"):
        for link in re.finditer(r"\]\((?:docs/)?([\w-]+\.md)(?:#[\w-]+)?\)", prose(page)):
            after = prose(page)[link.end() :].split("\n\n")[0]
            if link[1] in english_only:
                assert "英文" in after, f"{page}: {link[0]}"


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
