"""The thread pools of the web process: nothing that blocks runs on the event loop.

A request takes two turns on a thread, for each turn costs both sides a wake-up: `admission` does
all that comes before it is accepted, `database` writes its end. What takes long there, such as a
body of megabytes, delays other admissions, and never an end or a flush. `disk` writes the journal,
while all threads of `database` may be waiting for a database that is away; `readiness` asks whether
it is.

They keep few threads for as long as the process lives, so that each keeps its connection. Channels
enters no ThreadSensitiveContext, so Django's own `sync_to_async` would put the database work of all
consumers on one thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from conversations.storage.overdue import overdue
from llmapi import metrics
from llmapi.turns import Turns

P = ParamSpec("P")
T = TypeVar("T")


class Executor:
    """A bounded pool of named threads, made at first use and again after `close`.

    Each job finds its thread's connection usable, or gets a new one: without
    `close_old_connections` a thread whose PostgreSQL backend died would fail for ever. No job
    waits for ever for a database that is silent.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._connections: set[BaseDatabaseWrapper] = set()
        self._turns = Turns(2 * threads)  # so that the next is there when a thread is free

    async def run_in_turn(
        self, lane: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same; of those that wait for a thread, each lane's next in turn."""
        turns = self._turns
        await turns.take(lane)
        try:
            return await self.run(function, *args, **kwargs)
        finally:
            turns.leave()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)` on one of the threads."""
        pool = self._pool = self._pool or ThreadPoolExecutor(self.threads, self.name)
        loop = asyncio.get_running_loop()
        context = copy_context()  # the id of the request, for the log
        return await loop.run_in_executor(
            pool, lambda: context.run(lambda: self._call(function, *args, **kwargs))
        )

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        own = connections[DEFAULT_DB_ALIAS]
        if own not in self._connections:
            own.inc_thread_sharing()  # so that `close` may close it when its thread is gone
            self._connections.add(own)
        close_old_connections()
        try:
            with overdue.watched():
                return function(*args, **kwargs)
        except BaseException as error:
            metrics.failed_in(self.name, error)
            raise
        finally:
            close_old_connections()

    def close(self) -> None:
        """Wait for running jobs, end the threads and close their connections."""
        self._turns = Turns(2 * self.threads)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)
        while self._connections:
            self._connections.pop().close()


admission = Executor("admission", threads=4)
database = Executor("database", threads=4)
disk = Executor("disk", threads=1)
readiness = Executor("readiness", threads=1)
