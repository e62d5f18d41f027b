"""How lines of the log look, and what none of them may hold: keys, passwords, the tokens of links,
which are as good as passwords, and what users said."""

import copy
import json
import logging
import re
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from accounts.keys import LIKE_A_KEY
from accounts.tracebacks import named, traceback_of

SECRETS = {
    ("/sign-up/", "/password/"): re.compile(r"(/(?:sign-up|password)/)[^\s'\"<>]+"),
    ("sk-",): re.compile(rf"({LIKE_A_KEY})[0-9A-Za-z]+"),
    ("bearer",): re.compile(r"(\bbearer\s+)[^\s'\",]+", re.IGNORECASE),
    ("sessionid=", "csrf", "password="): re.compile(
        r"(\b(?:sessionid|csrftoken|csrfmiddlewaretoken|password)=)[^\s'\";&]+", re.IGNORECASE
    ),
    ("://",): re.compile(r"(\b[a-z][a-z+]{2,20}://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)", re.IGNORECASE),
}
"""What looks like one: a pattern whose group stays, by the words without which there is none. (Few
lines have any, and looking for those costs next to nothing.)"""

LONGEST_PATH = 200

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being worked on; every line that is written meanwhile has it."""


def path_to_log(path: str) -> str:
    """The path without secrets, and no longer than a line bears."""
    return without_secrets(path)[:LONGEST_PATH]


def without_secrets(text: str) -> str:
    lower = text.lower()
    for marks, pattern in SECRETS.items():
        if any(mark in lower for mark in marks):
            text = pattern.sub(r"\1…", text)
    return text


class SafeFormatter(logging.Formatter):
    """Looks at each line as a whole: Django logs addresses too, of forms without their cookie and
    of pages that failed. Exceptions say no more than `accounts.tracebacks` lets them.

    A record may have `request_id`, if it is not written by the request's own task, and `facts`, a
    dict of what a machine may want to read.
    """

    def message(self, record: logging.LogRecord) -> str:
        """With the kind and the harmless words of exceptions that are its arguments."""
        if record.name == "asyncio":
            # Of what nobody waited for: the other lines show the task, and its exception's words.
            return record.getMessage().partition("\n")[0]
        if (error := sys.exception()) and record.getMessage().startswith("Traceback "):
            return traceback_of(error)  # daphne writes its own
        if isinstance(record.msg, BaseException):
            return named(record.msg)
        if isinstance(record.args, tuple) and any(
            isinstance(value, BaseException) for value in record.args
        ):
            record = copy.copy(record)
            record.args = tuple(
                named(value) if isinstance(value, BaseException) else value
                for value in record.args or ()
            )
        return record.getMessage()

    def request_of(self, record: logging.LogRecord) -> str:
        return getattr(record, "request_id", "") or request_id.get()

    def trace(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return traceback_of(error) if error is not None else record.stack_info or ""


class LineFormatter(SafeFormatter):
    """For people: time, level, logger, request, message."""

    def format(self, record: logging.LogRecord) -> str:
        before = f"{self.formatTime(record)} {record.levelname} {record.name}:"
        words = (before, self.request_of(record), self.message(record))
        line = " ".join(filter(None, words))
        trace = self.trace(record)
        return without_secrets(f"{line}\n{trace}" if trace else line)


class JsonFormatter(SafeFormatter):
    """For machines: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self.message(record),
        }
        if request := self.request_of(record):
            line["request_id"] = request
        line |= getattr(record, "facts", {})
        if trace := self.trace(record):
            line["traceback"] = trace
        return json.dumps(clean(line), ensure_ascii=False, default=str)


def clean(value: Any) -> Any:
    """Every text in it without secrets. (Of the finished JSON a pattern could take a quote.)"""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: clean(inner) for name, inner in value.items()}
    return value


def log_what_nobody_catches() -> None:
    """From now on such exceptions are lines of the log like others, and so are warnings; Python
    itself would write all that they say."""
    logger = logging.getLogger("llmapi")

    def of_main(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
        else:
            logger.critical("Nobody caught this", exc_info=error)

    def of_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
            name = told.thread.name if told.thread else "a thread"
            logger.critical("Nobody caught this in %s", name, exc_info=told.exc_value)

    sys.excepthook = of_main
    threading.excepthook = of_thread
    logging.captureWarnings(True)
