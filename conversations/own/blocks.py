"""A text with code in it, as models write it: what stands between fences is set apart. Nothing else
of Markdown is read: what was said is shown as it was said."""

import re
from dataclasses import dataclass

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`]{0,40})[^`\n]*")
FOLDED_FROM = 4000
FOLDED_FROM_LINES = 60
"""Longer than this in characters or lines: the page shows the beginning and unfolds the rest."""


@dataclass(frozen=True, slots=True)
class Block:
    text: str
    is_code: bool = False
    language: str = ""


def blocks(text: str) -> list[Block]:
    """In order; a fence that is never closed goes to the end, as of an answer that was cut."""
    found: list[Block] = []
    lines: list[str] = []
    fence, language = "", ""

    def close(is_code: bool) -> None:
        said = "\n".join(lines)
        lines.clear()
        if is_code or said.strip():
            found.append(Block(said if is_code else said.strip("\n"), is_code, language))

    for line in text.split("\n"):
        match = FENCE.fullmatch(line)
        if not fence and match:
            close(False)
            fence, language = match[1], match[2]
        elif fence and match and match[1].startswith(fence) and not match[2]:
            close(True)
            fence = language = ""
        else:
            lines.append(line)
    close(bool(fence))
    return found


def is_long(text: str) -> bool:
    return len(text) > FOLDED_FROM or text.count("\n") > FOLDED_FROM_LINES
