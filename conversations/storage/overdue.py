"""Who waits for a database that says nothing is freed.

When PostgreSQL's machine is gone, the kernel notices (`tcp_user_timeout`). A server that is frozen,
or waits for its disk, still has a kernel that acknowledges what is sent; libpq then waits for ever.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

HAS_S = 10.0
"""As long as a machine that is gone has (`tcp_user_timeout` in the settings)."""

LOOKS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Wait:
    """One thread's work with a connection."""

    connection: BaseDatabaseWrapper
    until: float


class Overdue:
    """Cuts connections whose threads have waited too long: these meet an OperationalError, as when
    the database goes away."""

    def __init__(self, looks_every_s: float = LOOKS_EVERY_S) -> None:
        self.looks_every_s = looks_every_s
        self._waits: dict[int, Wait] = {}
        """Of each thread. Written by that thread alone."""
        self._starting = threading.Lock()
        self._watcher: threading.Thread | None = None

    @contextmanager
    def watched(self, has_s: float = HAS_S) -> Iterator[None]:
        """What is done in here with this thread's connection may take `has_s`; who waits for no
        answer then is left alone until it does. Not to be nested. SQLite keeps its own time."""
        connection = connections[DEFAULT_DB_ALIAS]
        if connection.vendor != "postgresql":
            yield
            return
        self._start()
        thread = threading.get_ident()
        self._waits[thread] = Wait(connection, time.monotonic() + has_s)
        try:
            yield
        finally:
            del self._waits[thread]

    def _start(self) -> None:
        if self._watcher is not None and self._watcher.is_alive():
            return
        with self._starting:
            if self._watcher is None or not self._watcher.is_alive():  # as in a forked child
                self._watcher = threading.Thread(target=self._watch, name="overdue", daemon=True)
                self._watcher.start()

    def _watch(self) -> None:
        while True:
            time.sleep(self.looks_every_s)
            now = time.monotonic()
            for wait in [*self._waits.values()]:
                if now > wait.until:
                    cut(wait.connection)


overdue = Overdue()


def cut(connection: BaseDatabaseWrapper) -> None:
    """Ends the connection under a thread that waits for its answer."""
    there = connection.connection
    if there is None or there.info.transaction_status != TransactionStatus.ACTIVE:
        return
    with suppress(OSError), socket.socket(fileno=os.dup(there.fileno())) as pipe:
        pipe.shutdown(socket.SHUT_RDWR)
