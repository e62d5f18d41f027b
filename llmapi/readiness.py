"""Whether a request would be answered now."""

import asyncio

from django.db import DatabaseError, connection

from conversations.processes.journal import journal
from llmapi.executors import readiness
from llmapi.running import running
from llmapi.services import models

DATABASE_HAS_S = 2.0
"""Who probes does not wait for longer; and a database that needs as long is not there."""

DATABASE_AWAY = "The database does not answer."


def why_not_able() -> str | None:
    """What this process knows by itself."""
    if running.draining:
        return "The server is shutting down."
    if models.unavailable:
        return models.unavailable
    if journal.is_pending:
        return "The database did not take what was written last."
    return None


def ask_database() -> None:
    """Raises DatabaseError. Blocks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def why_not_ready() -> str | None:
    """The same and the database; None: it would be. Blocks."""
    reason = why_not_able()
    if reason is None:
        try:
            ask_database()
        except DatabaseError:
            reason = DATABASE_AWAY
    return reason


class Readiness:
    """The same on the event loop, within a time. However many ask, the database is asked once."""

    def __init__(self) -> None:
        self._asking: asyncio.Future[None] | None = None

    async def why_not(self) -> str | None:
        reason = why_not_able()
        if reason is None:
            try:
                async with asyncio.timeout(DATABASE_HAS_S):
                    await asyncio.shield(self._ask())
            except (TimeoutError, DatabaseError):
                reason = DATABASE_AWAY
        return reason

    def _ask(self) -> "asyncio.Future[None]":
        loop, asking = asyncio.get_running_loop(), self._asking
        if asking is None or asking.done() or asking.get_loop() is not loop:
            asking = self._asking = loop.create_task(readiness.run(ask_database))
            # Also where nobody waits any more: an error that nobody hears is none.
            asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return asking
