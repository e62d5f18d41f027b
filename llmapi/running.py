"""The requests that this process is working on: strong references, and an orderly end.

daphne hands a request to a consumer and forgets it; what a consumer starts as a task of its own,
daphne does not even hear of when it shuts down. So every request's task is here until it is done.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from llmapi.errors import ServerUnavailable

T = TypeVar("T")

LAST_WRITES_S = 10.0


class RunningRequests:
    """Owned by the event loop: nothing here may be called from another thread."""

    def __init__(self) -> None:
        self._requests: set[asyncio.Task[Any]] = set()
        self._writes: set[asyncio.Task[Any]] = set()
        self.process_id: int | None = None
        """Primary key of this process's ServerProcess row, which the rows of its requests name."""

        self.draining = False
        """SIGTERM was heard: no new requests, running ones go on."""

        self.expired = False
        """The time for draining is over: what is cancelled now was interrupted by us."""

    def __len__(self) -> int:
        return len(self._requests)

    def check_open(self) -> None:
        """Raises ServerUnavailable if the server drains."""
        if self.draining:
            raise ServerUnavailable("The server is shutting down.", code="shutting_down")

    def start(self, request: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run one request as a task; `drain` waits for it, and cancels it in the end."""
        return self._hold(request, self._requests)

    def start_write(self, write: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run what must come to its end whoever leaves; `drain` waits for it and never cancels
        it."""
        return self._hold(write, self._writes)

    def _hold(
        self, work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]]
    ) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, let running ones finish, cancel those that take longer."""
        self.draining = True
        if self._requests:
            await asyncio.wait(self._requests, timeout=timeout_s)
        self.hurry()
        # A cancelled request still writes its end. Bounded, for the database may be away: what is
        # left `running` then is swept when this process is gone.
        deadline = time.monotonic() + LAST_WRITES_S
        while (left := self._requests | self._writes) and time.monotonic() < deadline:
            await asyncio.wait(left, timeout=1)

    def hurry(self) -> None:
        """End running requests now; each writes its end as `interrupted`."""
        self.draining = self.expired = True
        for task in self._requests:
            task.cancel()

    def reset(self) -> None:
        """As new; for tests, which drain more than once in a process."""
        self.draining = self.expired = False


running = RunningRequests()
