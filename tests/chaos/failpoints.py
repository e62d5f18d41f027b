"""Named places in a request's life at which a server kills itself, put there from the outside.

CHAOS_KILL=POINT:TARGET:COUNT arms one: when it is reached for the COUNT-th time, the TARGET dies by
SIGKILL: `web` (this process), `engine` (its child), or `both` at the same moment. The time is
written to CHAOS_MARK first. A server that is not armed runs as it is.
"""

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

Reached = Callable[[], None]

ON_ITS_WAY_S = 0.02
"""What was handed to the event loop has left this process by then."""


def before_commit(module: Any, function: str, reached: Reached) -> None:
    """When everything of `module.function`'s transaction is written, and not committed."""

    @contextmanager
    def transaction(write: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        with write():
            yield
            reached()

    in_the_transaction_of(module, function, transaction)


def after_commit(module: Any, function: str, reached: Reached) -> None:
    """When it is committed, and nobody has heard of that."""

    @contextmanager
    def transaction(write: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
        with write():
            yield
        reached()

    in_the_transaction_of(module, function, transaction)


def in_the_transaction_of(module: Any, function: str, transaction: Any) -> None:
    """`conversations.services` opens `transaction(as it does)` while `module` calls its name
    `function`, and all others as it does."""
    from conversations import services

    original, write = getattr(module, function), services.write_transaction
    thread = threading.local()

    def watched(*args: Any, **kwargs: Any) -> Any:
        thread.is_inside = True
        try:
            return original(*args, **kwargs)
        finally:
            thread.is_inside = False

    def write_transaction() -> AbstractContextManager[None]:
        return transaction(write) if getattr(thread, "is_inside", False) else write()

    setattr(module, function, watched)
    services.write_transaction = write_transaction  # type: ignore[assignment]


def after_first_event(reached: Reached) -> None:
    """When a stream's first text is on its way to the client."""
    from llmapi.door import GenerationConsumer

    send = GenerationConsumer.send_events

    async def send_events(self: Any, data: bytes, **options: Any) -> None:
        is_first = self.status is None
        await send(self, data, **options)
        if is_first:
            await asyncio.sleep(ON_ITS_WAY_S)
            reached()

    GenerationConsumer.send_events = send_events  # type: ignore[method-assign]


def arm_start(when: Any, reached: Reached) -> None:
    from llmapi import completions

    when(completions, "completion_start", reached)


def arm_flush(when: Any, reached: Reached) -> None:
    from llmapi import flusher

    when(flusher, "completions_flush", reached)


def arm_end(when: Any, reached: Reached) -> None:
    from llmapi import reservations

    when(reservations, "completion_finish", reached)


def arm_sweep(when: Any, reached: Reached) -> None:
    from conversations.processes import sweeping

    when(sweeping, "completion_interrupt", reached)


def arm_replay(when: Any, reached: Reached) -> None:
    from conversations.processes import journal

    when(journal, "completion_finish", reached)


def after_append(reached: Reached) -> None:
    """When the journal has an end, and nobody has heard of that. In such a life the database takes
    nothing but new requests."""
    from conversations.processes.journal import journal

    database_takes_nothing()
    append = journal.append

    def append_and_reach(ended: Any) -> None:
        append(ended)
        time.sleep(ON_ITS_WAY_S)  # so that the one before it is told
        reached()

    journal.append = append_and_reach  # type: ignore[method-assign]


def database_takes_nothing() -> None:
    from django.db import OperationalError

    from conversations.processes.journal import journal
    from llmapi import flusher, reservations

    def away(*args: Any) -> None:
        raise OperationalError("the database is away")

    reservations.completion_finish = flusher.completions_flush = away
    journal.replay = away  # type: ignore[method-assign]


POINTS: dict[str, Callable[[Reached], None]] = {
    "start_before_commit": lambda reached: arm_start(before_commit, reached),
    "start_committed": lambda reached: arm_start(after_commit, reached),
    "first_event_sent": after_first_event,
    "flush_before_commit": lambda reached: arm_flush(before_commit, reached),
    "flush_committed": lambda reached: arm_flush(after_commit, reached),
    "end_before_commit": lambda reached: arm_end(before_commit, reached),
    "end_committed": lambda reached: arm_end(after_commit, reached),
    "journal_appended": after_append,
    "replay_before_commit": lambda reached: arm_replay(before_commit, reached),
    "replay_committed": lambda reached: arm_replay(after_commit, reached),
    "sweep_before_commit": lambda reached: arm_sweep(before_commit, reached),
    "sweep_one_committed": lambda reached: arm_sweep(after_commit, reached),
}
"""In the order of a request's life."""

REPLAYS = ("replay_before_commit", "replay_committed")
SWEEPS = ("sweep_before_commit", "sweep_one_committed")
IN_A_START = (*REPLAYS, *SWEEPS)
"""Reached in a start, after a process that left a journal, or requests running."""


def install() -> None:
    """Arms what the environment asks for. Django is set up."""
    order = os.environ.get("CHAOS_KILL")
    if not order:
        return
    point, target, count = order.split(":")
    mark = Path(os.environ["CHAOS_MARK"])
    times = itertools.count(1)

    def reached() -> None:
        if next(times) == int(count):
            mark.write_text(str(time.time()))
            kill(target)

    POINTS[point](reached)


def kill(target: str) -> None:
    if target == "both":
        os.killpg(0, signal.SIGKILL)
    if target == "web":
        os.kill(os.getpid(), signal.SIGKILL)
    from llmapi.services import models

    os.kill(models.backend(None).link.handle.pid, signal.SIGKILL)  # type: ignore[attr-defined]
