"""daphne, taught to end in an orderly way, to write streams at a low price, and to bound what
clients take."""

import asyncio
import logging
import signal
import socket
from typing import Any

from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from twisted.internet import defer, task
from twisted.internet import reactor as twisted_reactor

from llmapi.running import running
from llmapi.wire.bounds import Bounds
from llmapi.wire.channel import DoorChannel
from llmapi.wire.connections import Connections
from llmapi.wire.request import DoorRequest
from llmapi.wire.transport import PromptTransport

logger = logging.getLogger(__name__)

LARGE_PIECE = 32 * 1024
MOST_WAITING = 512 * 1024
"""Bytes: from what size on a piece of an answer waits for room, and how much may lie before it."""

LOOK_EVERY_S = 1.0


class DoorServer(Server):
    """On SIGTERM or SIGINT new requests get 503 and running ones go on for `shutdown_timeout_s`.

    daphne would cancel its application instances at once, and knows nothing of the tasks that
    consumers started. A second signal ends the waiting.
    """

    def __init__(
        self,
        application: Any,
        listener: socket.socket,
        bounds: Bounds,
        shutdown_timeout_s: float,
        **kwargs: Any,
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
        self.open = Connections(bounds)

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
        task.LoopingCall(self.open.look).start(LOOK_EVERY_S, now=False)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] == "http":
            scope["forget_body"] = protocol.forget_body
        return super().create_application(protocol, scope)

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
        that a slow client has not read yet would be in memory. (Not so of events: whoever sends
        those goes on, so that no client keeps a request from its end by reading slowly. Who reads
        nothing of either is broken off by its connection.)"""
        while not protocol.finished and protocol.channel is not None:
            transport = protocol.channel.transport
            if transport.unread <= MOST_WAITING or not transport.connected:
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


class DoorFactory(HTTPFactory):
    """Makes a channel for each connection: HTTP/1.1 alone, for TLS ends at the proxy."""

    def buildProtocol(self, addr: Any) -> DoorChannel | None:  # noqa: N802 (Twisted's name)
        if self.server.open.is_overrun:
            return None  # Twisted closes it
        channel = DoorChannel(self.server.open)
        channel.factory = self
        channel.requestFactory = DoorRequest
        channel.callLater = self.reactor.callLater
        return channel

    def log(self, request: Any) -> None:
        """Nothing: Twisted's log is not kept, and requests are logged by those who answer them."""


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
