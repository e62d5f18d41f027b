"""daphne, taught to end in an orderly way and to write streams at a low price."""

import asyncio
import logging
import signal
import socket
import time
from typing import Any, ClassVar

from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from twisted.internet import defer, tcp
from twisted.internet import reactor as twisted_reactor

from llmapi.running import running
from llmapi.wire.refusing import RefusingChannel, RefusingRequest

logger = logging.getLogger(__name__)

LARGE_PIECE = 32 * 1024
MOST_WAITING = 512 * 1024
"""Bytes: from what size on a piece of an answer waits for room, and how much may lie before it."""

STALLED_AFTER_S = 60.0
"""Who takes nothing of such an answer for so long gets no more of it."""


class DoorServer(Server):
    """On SIGTERM or SIGINT new requests get 503 and running ones go on for `shutdown_timeout_s`.

    daphne would cancel its application instances at once, and knows nothing of the tasks that
    consumers started. A second signal ends the waiting.
    """

    def __init__(
        self, application: Any, listener: socket.socket, shutdown_timeout_s: float, **kwargs: Any
    ) -> None:
        # No http_timeout: it would cut streams.
        super().__init__(
            application,
            endpoints=[f"fd:fileno={listener.fileno()}"],
            server_name="llmapi",
            verbosity=0,
            **kwargs,
        )
        self.shutdown_timeout_s = shutdown_timeout_s

    def take_ctrl_c(self) -> None:
        """From now on it ends the server in an orderly way, also if it comes before `run`. (Where a
        script has started the server in its background, it is ignored.)"""
        reactor: Any = twisted_reactor
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, reactor.sigInt)

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        port.transport = PromptTransport
        port.factory = DoorFactory(self)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """The events of a stream, one for each token, go a shorter way than daphne's."""
        if message.get("more_body") and protocol.startedWriting:
            if not protocol.finished and protocol.channel is not None:
                protocol.write(message["body"])
        else:
            await super().handle_reply(protocol, message)
        is_large = len(message.get("body", b"")) >= LARGE_PIECE and message.get("more_body")
        if is_large and not is_event_stream(protocol):
            await self.has_room(protocol)

    async def has_room(self, protocol: Any) -> None:
        """Waits until most of what was written is on its way. daphne never does: of an export, all
        that a slow client has not read yet would be in memory. One that reads nothing is broken
        off. (Not so of events: whoever sends those goes on, so that no client keeps a request from
        its end by reading slowly.)"""
        least, moved_at = None, time.monotonic()
        while not protocol.finished and protocol.channel is not None:
            transport = protocol.channel.transport
            waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            if waiting <= MOST_WAITING or not transport.connected:
                return
            now = time.monotonic()
            if least is None or waiting < least:
                least, moved_at = waiting, now
            elif now - moved_at > STALLED_AFTER_S:
                protocol.channel.forceAbortClient()
                return
            await asyncio.sleep(0.02)

    def kill_all_applications(self) -> defer.Deferred[Any]:
        """Twisted waits for what this returns before it closes connections."""
        loop = asyncio.get_event_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(running.hurry))
        return defer.Deferred.fromFuture(asyncio.ensure_future(self.end_applications()))

    async def end_applications(self) -> None:
        if len(running):
            logger.info(
                "Waiting for %d running requests, at most %.0f s; a second Ctrl-C ends them now.",
                len(running),
                self.shutdown_timeout_s,
            )
        await running.drain(self.shutdown_timeout_s)
        # What is left are Django's views, which are short, and idle connections.
        left = [
            details["application_instance"]
            for details in self.connections.values()
            if "application_instance" in details
        ]
        if left:
            await asyncio.wait(left, timeout=1)
        for application in left:
            application.cancel()
        await asyncio.sleep(0.05)  # let the last bytes leave the buffers


def is_event_stream(protocol: Any) -> bool:
    types = protocol.responseHeaders.getRawHeaders(b"content-type", [])
    return any(value.startswith(b"text/event-stream") for value in types)


class DoorRequest(RefusingRequest):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Twisted would parse forms on the event loop, megabytes too; Django parses its own.
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)

    def handle_exception(self, exception: BaseException) -> None:
        """In the middle of an answer there is no room for another: the connection is broken off,
        and what came is not taken for the whole. (daphne's own way raises, in the very function
        that looks after all connections.)"""
        if not self._response_started:
            super().handle_exception(exception)
        elif not self.finished and self.channel is not None:
            self.channel.forceAbortClient()


class DoorFactory(HTTPFactory):
    protocol = RefusingChannel  # and nothing of HTTP/2, which goes with TLS

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 (Twisted's name)
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = DoorRequest
        return protocol

    def log(self, request: Any) -> None:
        """Nothing: Twisted's log is not kept, and requests are logged by those who answer them."""


class PromptTransport(tcp.Server):
    """A connection that is written to when the event loop comes round, without asking before.

    Twisted has the kernel tell it first that it may write: for each token of each stream the
    connection is put on epoll's list, reported and taken off again, which costs more than the write
    itself. Nearly always it may. A connection whose client reads too slowly is left to the reactor,
    which is asked as soon as a write was not taken as a whole.
    """

    _due: "ClassVar[list[PromptTransport]]" = []
    """Those with something to send, which go in one turn of the event loop."""

    _is_due = False

    def startWriting(self) -> None:  # noqa: N802 (Twisted's name)
        if self.dataBuffer:  # of an earlier write: the reactor has this connection on its list
            super().startWriting()
        elif not self._is_due:
            self._is_due = True
            if not self._due:
                asyncio.get_running_loop().call_soon(self._write_due)
            self._due.append(self)

    @classmethod
    def _write_due(cls) -> None:
        due, cls._due = cls._due, []
        for transport in due:
            try:
                transport._write()
            except Exception:
                logger.exception("A connection could not be written to")

    def _write(self) -> None:
        """Send what was written since; whatever has to happen besides is the reactor's."""
        self._is_due = False
        if self.connected and (self.doWrite() is not None or self.dataBuffer):
            super().startWriting()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError: the port is taken, or the address is not this
    machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
