"""The two thread pools of the web process: nothing that blocks runs on the event loop.

`database` keeps few threads for as long as the process lives, so that each keeps its connection.
Channels enters no ThreadSensitiveContext, so Django's own `sync_to_async` would put the database
work of all consumers on one thread. `cpu` runs what costs time without waiting: JSON, templates,
tokens.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
T = TypeVar("T")


class Executor:
    """A bounded pool of named threads, made at first use and again after `close`."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)` on one of the threads."""
        pool = self._pool = self._pool or ThreadPoolExecutor(self.threads, self.name)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, lambda: self.call(function, *args, **kwargs))

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def close(self) -> None:
        """Wait for running jobs and end the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


class DatabaseExecutor(Executor):
    """Each job finds its thread's connection usable, or gets a new one.

    Without `close_old_connections` a thread whose PostgreSQL backend died would fail for ever.
    """

    def __init__(self, name: str, threads: int) -> None:
        super().__init__(name, threads)
        self._connections: set[BaseDatabaseWrapper] = set()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        own = connections[DEFAULT_DB_ALIAS]
        if own not in self._connections:
            own.inc_thread_sharing()  # so that `close` may close it when its thread is gone
            self._connections.add(own)
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    def close(self) -> None:
        super().close()
        while self._connections:
            self._connections.pop().close()


database = DatabaseExecutor("database", threads=8)
cpu = Executor("cpu", threads=2)
