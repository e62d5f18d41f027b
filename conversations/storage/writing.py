"""Transactions that write."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from django.db import connection, transaction

_one_writer = threading.RLock()


@contextmanager
def write_transaction() -> Iterator[None]:
    """`transaction.atomic()`; with SQLite, one at a time in this process.

    SQLite has one writer. Who finds it taken sleeps and asks again, up to 100 ms at a time, and may
    be overtaken; whoever waits for a lock is woken at once.
    """
    alone = _one_writer if connection.vendor == "sqlite" else nullcontext()
    with alone, transaction.atomic():
        yield
