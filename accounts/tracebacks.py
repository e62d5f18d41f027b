"""Exceptions as the log may show them: where, and of what kind; and what they say, as far as that
cannot be what somebody said.

`ValueError("invalid literal for int(): 'my secret'")`, a decoder that quotes its input, PostgreSQL
that quotes the row which it refused: messages are where texts get into logs. So only the kinds are
quoted whose messages are made of code, names and numbers.
"""

import traceback
from collections.abc import Iterator
from typing import Any

import redis
from django.core.exceptions import FieldError, ImproperlyConfigured, ObjectDoesNotExist
from django.db import DataError
from django.db import Error as DatabaseError

from accounts.errors import ApiError

UNTOLD = "(its words are not logged, for they may quote what somebody said)"

PLAIN = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, IndexError),
    *(MemoryError, NameError, OSError, RuntimeError, TypeError),
    *(FieldError, ImproperlyConfigured, ObjectDoesNotExist, redis.RedisError),
)
"""Kinds that do not quote what they were given: not ValueError (of which Unicode's and JSON's
errors are), not KeyError, not ValidationError, and nothing that a library may have made up."""

STATE_CLASSES = ("08", "23", "25", "40", "42", "53", "55", "57", "58")
"""Of PostgreSQL's errors, those whose first line names things of the schema and of the server.
Class 22 quotes the value that it could not take; DETAIL, CONTEXT and LINE quote rows."""

BETWEEN = {
    "cause": "\nThe above exception was the direct cause of the following exception:\n",
    "context": "\nDuring handling of the above exception, another exception occurred:\n",
}


def told(error: BaseException) -> str:
    """What an exception says, or that it is not told."""
    if isinstance(error, ApiError):
        return error.message if error.is_ours else f"{error.status_code} {error.code}"
    if isinstance(error, DatabaseError) or hasattr(error, "sqlstate"):
        return told_by_database(error)
    if isinstance(error, PLAIN):
        return str(error)
    return UNTOLD


def named(error: BaseException) -> str:
    """Its kind and what it says, in one line."""
    return ": ".join(filter(None, (type(error).__name__, told(error))))


def told_by_database(error: BaseException) -> str:
    cause: Any = error.__cause__ or error
    state = getattr(cause, "sqlstate", None)
    if state is None:  # SQLite, or no answer and why there is none
        return UNTOLD if isinstance(error, DataError) else str(error)
    words = cause.diag.message_primary if state[:2] in STATE_CLASSES else ""
    return f"{type(cause).__name__} (SQLSTATE {state}) {words or ''}".strip()


def traceback_of(error: BaseException) -> str:
    """As Python writes it, without the words that are not told."""
    return "\n".join(_lines(error, set())).rstrip("\n")


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before, how = error.__cause__, "cause"
    if before is None and not error.__suppress_context__:
        before, how = error.__context__, "context"
    if before is not None and id(before) not in seen:
        yield from _lines(before, seen)
        yield BETWEEN[how]
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    yield f"{module}{named(error)}"
    if isinstance(error, BaseExceptionGroup):
        for number, inner in enumerate(error.exceptions, 1):
            yield f"---- {number} of {len(error.exceptions)} ----"
            yield from _lines(inner, seen)
