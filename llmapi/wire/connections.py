"""All open connections: how many there are, and what they hold together."""

import logging
import time
from collections.abc import Callable

from llmapi import metrics
from llmapi.errors import ServerUnavailable
from llmapi.wire.bodies import Bodies
from llmapi.wire.bounds import Bounds
from llmapi.wire.channel import DoorChannel, Phase

logger = logging.getLogger(__name__)

REFUSED_TOGETHER = 64
"""Connections beyond the bound that are told so; further ones are closed without a word."""


class Connections:
    """Owned by the event loop."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = bounds
        self.bodies = Bodies(bounds.max_body_bytes, bounds.max_bodies_bytes)
        self.most = bounds.connections
        self._clock = clock
        self._channels: dict[DoorChannel, None] = {}  # a set that keeps its order

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def is_overrun(self) -> bool:
        return len(self) >= self.most + REFUSED_TOGETHER

    def add(self, channel: DoorChannel) -> None:
        """The newcomer is refused if there are too many, and none that could be closed for it."""
        if len(self) >= self.most and not self._close_an_idle_one():
            channel.refuse(
                ServerUnavailable(
                    "The server has too many connections. Try again in a moment.",
                    code="too_many_connections",
                )
            )
        self._channels[channel] = None
        metrics.connections.set(len(self))

    def remove(self, channel: DoorChannel) -> None:
        self._channels.pop(channel, None)
        metrics.connections.set(len(self))

    def _close_an_idle_one(self) -> bool:
        now = self._clock()
        for channel in self._channels:
            if channel.is_idle(now):
                del self._channels[channel]
                channel.loseConnection()
                return True
        return False

    def look(self) -> None:
        """Once a second."""
        now = self._clock()
        for channel in list(self._channels):
            try:
                channel.look(now)
            except Exception:
                logger.exception("A connection could not be looked at")
        self._cut_the_fattest()

    def _cut_the_fattest(self) -> None:
        """No stream may have more waiting for its client than is left for all others."""
        unread = {c: c.transport.unread for c in self._channels if c.transport.unread}
        room = self.bounds.max_unread_bytes - sum(unread.values())
        streams = [channel for channel in unread if channel.phase is Phase.ANSWER]
        for channel in sorted(streams, key=unread.__getitem__, reverse=True):
            if unread[channel] <= room:
                return
            channel.abandon("The client read its answer too slowly: too much of it was waiting.")
            room += unread[channel]
