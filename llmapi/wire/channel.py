"""One connection: HTTP/1.1 as Twisted reads it, within bounds of size and time.

Twisted alone would answer what it cannot read with a bare 400, take any body whole before anybody
sees it, and wait for a client as long as a byte comes now and then.
"""

import enum
import socket
import time
from typing import TYPE_CHECKING, Any

from twisted.web import http

from llmapi.errors import AddressTooLong, ApiError, HeadersTooLarge, RequestTimeout
from llmapi.wire.refusal import refusal

if TYPE_CHECKING:
    from llmapi.wire.connections import Connections

LEAST_BYTES_PER_S = 8 * 1024
"""A body that takes longer than its time must have come at this rate."""

LINGER_S = 5.0
"""How long what still comes is thrown away after a refusal. If the connection were closed at once,
the kernel would reset it for what nobody has read, and the client might lose the answer."""

LONGEST_LENGTH = 18
"""Digits of a Content-Length. Twisted would have Python read any number of them, which it refuses
to at some thousands."""

ON_ITS_WAY_S = 1.0
"""So young a connection has perhaps sent a request that is not here yet."""

PROBE_AFTER_S = 30
PROBE_EVERY_S = 10
PROBES = 3
DEAD_LATER_S = 30


class Phase(enum.Enum):
    """What the connection waits for."""

    IDLE = "a request"
    HEAD = "the rest of a request's head"
    BODY = "the rest of its body"
    ANSWER = "the application's answer"
    LEAVING = "the client to close, for it was refused"


class DoorChannel(http.HTTPChannel):
    """Owned by the event loop. `Connections.look` asks each one in a while whether its time is
    over; there is no timer for each."""

    transport: Any
    """A `PromptTransport`."""

    timeOut = None  # noqa: N815 (Twisted's name): none of Twisted's own
    callLater: Any  # noqa: N815 (Twisted's name)

    def __init__(self, connections: "Connections") -> None:
        super().__init__()
        self.connections = connections
        self.bounds = connections.bounds
        self.enter(Phase.IDLE)
        self._arrived: int | None = None
        self._moved_at = self.since

    def enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, time.monotonic()

    # ---- coming and going ------------------------------------------------------------------------

    def connectionMade(self) -> None:  # noqa: N802 (Twisted's name)
        super().connectionMade()
        find_the_dead(self.transport.getHandle(), self.bounds.stalled_timeout_s)
        self.connections.add(self)

    def connectionLost(self, reason: Any = None) -> None:  # noqa: N802 (Twisted's name)
        self.connections.remove(self)
        super().connectionLost(reason)

    def is_idle(self, now: float) -> bool:
        """Nothing is under way, not even a request that was sent a moment ago."""
        is_quiet = self.phase is Phase.IDLE and not self.transport.unread
        return is_quiet and now - self.since > ON_ITS_WAY_S

    def abandon(self, reason: str) -> None:
        """The client counts as gone; `reason` is for the row of its request."""
        for request in self.requests:
            request.gone_because = reason
        self.forceAbortClient()

    # ---- reading ---------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's name)
        if self.phase is Phase.LEAVING:
            return
        if self.phase is Phase.IDLE:
            self.enter(Phase.HEAD)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 (Twisted's name)
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.lineLengthExceeded(line)
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 (Twisted's name)
        if self.requests:
            self.refuse(
                HeadersTooLarge(
                    f"The headers of a request may have {self.totalHeadersSize} bytes at most."
                )
            )
        else:
            self.refuse(
                AddressTooLong(
                    f"The first line of a request may have {self.totalHeadersSize} bytes at most."
                )
            )

    def headerReceived(self, line: bytes) -> bool:  # noqa: N802 (Twisted's name)
        if self._receivedHeaderCount == self.maxHeaders:
            self.refuse(HeadersTooLarge(f"A request may have {self.maxHeaders} headers at most."))
            return False
        return bool(super().headerReceived(line))

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:  # noqa: N802
        if header == b"Content-Length" and len(data) > LONGEST_LENGTH:
            return bool(self._failChooseTransferDecoder())
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def allHeadersReceived(self) -> None:  # noqa: N802 (Twisted's name)
        """Refuses a body by the length that it says it has, before a byte of it is read, and
        before the client is told to go on (`Expect: 100-continue`)."""
        try:
            self.connections.bodies.check(self.length or 0)
        except ApiError as error:
            self.refuse(error)
            return
        super().allHeadersReceived()
        self.enter(Phase.BODY)

    def rawDataReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's name)
        try:
            super().rawDataReceived(data)
        except ApiError as error:  # of `Body.write`
            self.refuse(error)

    def allContentReceived(self) -> None:  # noqa: N802 (Twisted's name)
        if self.phase is not Phase.LEAVING:
            self.enter(Phase.ANSWER)
            super().allContentReceived()

    def requestDone(self, request: Any) -> None:  # noqa: N802 (Twisted's name)
        self.enter(Phase.IDLE)  # before Twisted reads the next request, if it is there
        super().requestDone(request)

    # ---- refusing --------------------------------------------------------------------------------

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802 (Twisted's name)
        self.refuse(ApiError("This is not a request in HTTP/1.1.", code="invalid_http"))

    def refuse(self, error: ApiError) -> None:
        """Answer at once, and read no further."""
        if self.phase is Phase.LEAVING:
            return
        took_s = time.monotonic() - self.since
        self.enter(Phase.LEAVING)
        self.clearLineBuffer()
        for request in self.requests:
            request.drop_body()
        self.transport.write(refusal(error, took_s))
        self._networkProducer.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    # ---- time ------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """End what takes too long. Nothing here ends a request whose answer is awaited, however
        long that takes, nor one whose client reads, however slowly."""
        if self.is_stalled(now):
            self.abandon("The client did not read its answer.")
            return
        waited_s = now - self.since
        match self.phase:
            case Phase.IDLE if waited_s > self.bounds.idle_timeout_s:
                self.loseConnection()
            case Phase.HEAD if waited_s > self.bounds.header_timeout_s:
                self.refuse_for_its_time("headers")
            case Phase.BODY if waited_s > self.bounds.body_timeout_s + self.earned_s:
                self.refuse_for_its_time("body")
            case Phase.LEAVING if waited_s > LINGER_S:
                self.forceAbortClient()

    def is_stalled(self, now: float) -> bool:
        """Whether bytes wait, and for too long none has come to the client."""
        arrived = self.transport.arrived if self.transport.unread else None
        if arrived is None or arrived != self._arrived:
            self._arrived, self._moved_at = arrived, now
        return now - self._moved_at > self.bounds.stalled_timeout_s

    @property
    def earned_s(self) -> float:
        """Time that the bytes of a body have brought it."""
        return float(self.requests[-1].content.size / LEAST_BYTES_PER_S)

    def refuse_for_its_time(self, what: str) -> None:
        if self.requests:
            self.refuse(RequestTimeout(f"The {what} of this request took too long to come."))
        else:
            self.loseConnection()


def find_the_dead(connection: socket.socket, timeout_s: float) -> None:
    """Have the kernel find clients that vanished without a word: a machine that was switched off, a
    network that is gone. It asks those that are silent, and waits longer for answers than we
    wait for readers, who are alive: those are for `is_stalled`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", PROBE_AFTER_S),
        ("TCP_KEEPINTVL", PROBE_EVERY_S),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", round((timeout_s + DEAD_LATER_S) * 1000)),
    ):
        if option := getattr(socket, name, None):  # Linux has them all
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
