"""Keeps the partial text of running streams: one transaction a second for all of them together."""

import asyncio
import logging
from typing import Protocol

from conversations.services import completions_flush
from llmapi.executors import database

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0


class HasPartial(Protocol):
    @property
    def partial(self) -> tuple[tuple[str, ...], int]:
        """Texts of the choices so far, and how many tokens they are."""


class Flusher:
    """Runs while something is to be flushed. A request shorter than the interval costs nothing."""

    def __init__(self) -> None:
        self._running: dict[int, HasPartial] = {}
        self._written_tokens: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, completion_pk: int, outcome: HasPartial) -> None:
        self._running[completion_pk] = outcome
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run())

    def remove(self, completion_pk: int) -> None:
        self._running.pop(completion_pk, None)
        self._written_tokens.pop(completion_pk, None)

    async def _run(self) -> None:
        while self._running:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.flush()
            except Exception as error:  # whatever it was, the next second may do better
                logger.error("Partial texts could not be written: %s", error)

    async def flush(self) -> None:
        """Write what has grown since the last time."""
        grown = {}
        for pk, outcome in self._running.items():
            texts, tokens = outcome.partial
            if tokens > self._written_tokens.get(pk, 0):
                grown[pk] = (texts, tokens)
        if not grown:
            return
        await database.run(completions_flush, grown)
        for pk, (_, tokens) in grown.items():
            if pk in self._running:
                self._written_tokens[pk] = tokens


flusher = Flusher()
