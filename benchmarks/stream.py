"""One streamed answer over a plain socket.

While it runs, the client only notes what came when: it shares the machine with the server that it
measures. HTTP, events and JSON are read when all is over.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Piece = tuple[float, bytes]
"""What came, and when (`time.perf_counter`)."""

LAST_CHUNK = b"0\r\n\r\n"


class BadAnswer(Exception):
    """The server answered with an error, or not to the end."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    path: str
    key: str | None = None

    @classmethod
    def at(cls, url: str, key: str | None = None) -> "Endpoint":
        """Of a base URL, with or without its `/v1`."""
        parts = urlsplit(url)
        base = parts.path.rstrip("/").removesuffix("/v1")
        path = f"{base}/v1/chat/completions"
        return cls(parts.hostname or "127.0.0.1", parts.port or 80, path, key)

    def request(self, body: dict[str, Any]) -> bytes:
        data = json.dumps(body).encode()
        head = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Content-Type: application/json",
            "Accept: */*",
            "Connection: close",
            f"Content-Length: {len(data)}",
        ]
        if self.key:
            head.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + data


@dataclass(slots=True)
class Recording:
    """One exchange as it went over the wire."""

    began: float = 0.0
    pieces: list[Piece] = field(default_factory=list)


async def exchange(
    endpoint: Endpoint,
    body: dict[str, Any],
    *,
    into: Recording | None = None,
    timeout_s: float = 1800,
) -> Recording:
    """Ask, on a connection of its own (some servers close it after a stream), and hear all of it.
    Raises BadAnswer if there was no answer in time.

    `into`: a recording to look into while it grows.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    request = endpoint.request(body)
    recording = into or Recording()
    recording.began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(
                lambda: _Recorder(request, recording, ended), endpoint.host, endpoint.port
            )
            try:
                await ended
            finally:
                transport.close()
    except TimeoutError as error:
        raise BadAnswer(f"no answer within {timeout_s:.0f} s") from error
    except OSError as error:
        raise BadAnswer(f"the connection failed: {error}") from error
    return recording


class _Recorder(asyncio.BufferedProtocol):
    """One buffer for all that a connection reads: an `asyncio.Protocol` is handed a quarter of a
    megabyte of fresh memory each time."""

    def __init__(self, request: bytes, recording: Recording, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._recording = recording
        self._ended = ended
        self._tail = b""
        self._buffer = bytearray(16384)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(memoryview(self._buffer)[:nbytes])
        self._recording.pieces.append((time.perf_counter(), data))
        self._tail = (self._tail + data)[-len(LAST_CHUNK) :]
        # Not every server closes the connection when it is asked to.
        if self._tail == LAST_CHUNK and is_complete(self._recording.pieces):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


# ---- reading what came ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a recorded exchange says; times in seconds."""

    text: str
    arrivals: tuple[float, ...]
    """When each event with text in it came, counted from the request."""

    total_s: float
    usage: dict[str, Any] | None
    finish_reason: str | None


def read_answer(recording: Recording) -> Answer:
    """Raises BadAnswer, with the server's words, if this is not a stream that came to its end."""
    head, pieces = split_head(recording.pieces)
    status = head.split(None, 2)[1:2]
    if status != [b"200"]:
        said = b"".join(data for _, data in body_pieces(head, pieces)).decode(errors="replace")
        shown = status[0].decode() if status else "no answer"
        raise BadAnswer(f"{shown}: {said[:500]}")
    texts, arrivals = [], []
    usage, reason = None, None
    for at, event in json_events(head, pieces):
        usage = event.get("usage") or usage
        if text := text_of(event):
            texts.append(text)
            arrivals.append(at - recording.began)
        for choice in event.get("choices") or ():
            reason = choice.get("finish_reason") or reason
    if reason is None:
        raise BadAnswer(f"the stream ended without a finish reason after {len(texts)} events")
    return Answer(
        text="".join(texts),
        arrivals=tuple(arrivals),
        total_s=recording.pieces[-1][0] - recording.began,
        usage=usage,
        finish_reason=reason,
    )


def text_times(recording: Recording) -> list[float]:
    """When text came (`time.perf_counter`) in an exchange that may still go on."""
    return [at for at, event in json_events(*split_head(recording.pieces)) if text_of(event)]


def json_events(head: bytes, pieces: Iterable[Piece]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Up to `[DONE]`, which not every server sends. Raises BadAnswer at an error."""
    for at, data in events(body_pieces(head, pieces)):
        if data == "[DONE]":
            return
        event = json.loads(data)
        if event.get("error"):
            raise BadAnswer(f"an error in the stream: {event['error']}")
        yield at, event


def text_of(event: dict[str, Any]) -> str:
    """Empty for the chunks that tell only a role, an end or the usage."""
    choices = event.get("choices") or ()
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in choices)


def split_head(pieces: Iterable[Piece]) -> tuple[bytes, list[Piece]]:
    """The response's head in lower case, and the pieces of what follows it."""
    before, rest = b"", list(pieces)
    while rest:
        at, data = rest.pop(0)
        before += data
        head, end, body = before.partition(b"\r\n\r\n")
        if end:
            return head.lower(), [(at, body), *rest] if body else rest
    return before.lower(), []


def body_pieces(head: bytes, pieces: Iterable[Piece]) -> list[Piece]:
    """The body without its chunk framing; each piece has the time at which it came."""
    return unchunked(pieces)[0] if is_chunked(head) else list(pieces)


def is_chunked(head: bytes) -> bool:
    return any(
        line.startswith(b"transfer-encoding:") and b"chunked" in line for line in head.splitlines()
    )


def is_complete(pieces: Iterable[Piece]) -> bool:
    """Whether a chunked body has had its last chunk, and not only something that looks like it."""
    head, rest = split_head(pieces)
    return is_chunked(head) and unchunked(rest)[1]


def unchunked(pieces: Iterable[Piece]) -> tuple[list[Piece], bool]:
    """What was in the chunks, and whether the last one, which is empty, has come. Trailers are not
    read."""
    found: list[Piece] = []
    held, left = b"", 0
    for at, data in pieces:
        held += data
        while held:
            if left:
                found.append((at, held[:left]))
                held, left = held[left:], max(left - len(held), 0)
                continue
            # A chunk's data ends with CRLF, so the next size may have one before it.
            line, end, after = held.removeprefix(b"\r\n").partition(b"\r\n")
            if not end:
                break
            left, held = int(line.partition(b";")[0], 16), after
            if not left:
                return found, True
    return found, False


def events(pieces: Iterable[Piece]) -> Iterator[tuple[float, str]]:
    """The `data` of each server-sent event, and when its closing blank line came."""
    held = b""
    lines: list[str] = []
    for at, data in pieces:
        held += data
        *whole, held = held.split(b"\n")
        for raw in whole:
            line = raw.decode().removesuffix("\r")
            if line.startswith("data:"):
                lines.append(line.removeprefix("data:").removeprefix(" "))
            elif not line and lines:
                yield at, "\n".join(lines)
                lines = []
