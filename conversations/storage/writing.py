"""Transactions that write."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from django.db import InterfaceError, OperationalError, connection, transaction

_one_writer = threading.RLock()


class CommitInDoubt(OperationalError):
    """The database went away in the commit itself: it was done, or it was not."""


@contextmanager
def write_transaction() -> Iterator[None]:
    """`transaction.atomic()`; with SQLite, one at a time in this process. Raises CommitInDoubt.

    SQLite has one writer. Who finds it taken sleeps and asks again, up to 100 ms at a time, and may
    be overtaken; whoever waits for a lock is woken at once.
    """
    alone = _one_writer if connection.vendor == "sqlite" else nullcontext()
    is_written = False
    try:
        with alone, transaction.atomic():
            yield
            is_written = True
    except (OperationalError, InterfaceError) as error:
        if is_written:
            raise CommitInDoubt(str(error)) from error
        raise
