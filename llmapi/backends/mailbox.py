"""Where the events of one running request wait for it."""

import asyncio
from typing import Any

from llmapi.engine.messages import Event, RequestFailed
from llmapi.errors import ApiError, GenerationFailed


class Mailbox:
    """Belongs to the event loop on which it was made.

    In place of asyncio's queue: every token of every stream passes here, and a reader that was kept
    waiting takes all that has come with one look.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._error: ApiError | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        if isinstance(event, RequestFailed):
            self.fail(GenerationFailed(event.message))
        else:
            self._events.append(event)
            self._wake()

    def fail(self, error: ApiError) -> None:
        """Nothing comes after this."""
        self._error = error
        self._wake()

    async def take(self) -> list[Any]:
        """The events since the last time, at least one: answers or embeddings, as was asked. Raises
        the error once those before it are taken."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._reader = self.loop.create_future()
            await self._reader
        events, self._events = self._events, []
        return events

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
