"""Brings the journal's ends into the database, once that is back."""

import asyncio
import logging

from conversations.processes.journal import DATABASE_AWAY, journal
from llmapi.errors import ServerUnavailable
from llmapi.executors import database

logger = logging.getLogger(__name__)

EVERY_S = 1.0
NOT_ACCEPTED = "The database does not answer, so the request was not accepted."


class Replayer:
    """Runs while there is something in the journal. Owned by the event loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def check_done(self) -> None:
        """Raises ServerUnavailable while the database does not have the ends of earlier requests:
        it would not take a new one."""
        if journal.is_pending:
            raise ServerUnavailable(NOT_ACCEPTED, code="database_unavailable")

    def start_if_needed(self) -> None:
        if journal.is_pending:
            self.start()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        while journal.is_pending:
            await asyncio.sleep(EVERY_S)
            try:
                await database.run(journal.replay)
            except DATABASE_AWAY:
                continue
            except Exception:
                logger.exception("The journal could not be replayed; it is tried again")
        logger.warning("The database answers again, and has all ends that were in the journal")


replayer = Replayer()
