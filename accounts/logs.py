"""What the log may not hold: the tokens of links, which are as good as passwords."""

import logging
import re

LINK = re.compile(r"(/(?:sign-up|password)/)[^\s'\"<>]+")
LONGEST_PATH = 200


def path_to_log(path: str) -> str:
    """The path without tokens, and no longer than a line bears."""
    return without_tokens(path)[:LONGEST_PATH]


def without_tokens(text: str) -> str:
    return LINK.sub(r"\1…", text)


class LineFormatter(logging.Formatter):
    """Looks at the whole line with its traceback: Django logs addresses too, of forms without their
    cookie and of pages that failed."""

    def format(self, record: logging.LogRecord) -> str:
        return without_tokens(super().format(record))
