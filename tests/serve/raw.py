"""Bytes over a socket, and what is answered: for requests that no client library would send."""

import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 30.0
KEYS = {"message", "type", "param", "code"}


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: dict[str, str]
    """By names in lower case."""

    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error

    @property
    def is_envelope(self) -> bool:
        try:
            return set(self.json()) == {"error"} and set(self.error) == KEYS
        except (ValueError, TypeError):
            return False


class Connection:
    """A socket; closed at the end of the block."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: str | bytes) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def send_what_is_taken(self, data: bytes, times: int = 1) -> int:
        """`data` again and again, until the other side takes no more; the bytes that were sent."""
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(times):
                self.sock.sendall(data)
                sent += len(data)
        return sent

    def read_answer(self, method: str = "GET") -> RawAnswer:
        """The next answer that is no `100 Continue`. method: of the request. Raises OSError: there
        is none."""
        while True:
            status, headers = self.read_head()
            if status != 100:
                break
        is_empty = method == "HEAD" or status in (204, 304)
        return RawAnswer(status, headers, b"" if is_empty else self.read_body(headers))

    def read_head(self) -> tuple[int, dict[str, str]]:
        line = self.file.readline()
        if not line:
            raise ConnectionError("The connection was closed without an answer.")
        assert line.startswith(b"HTTP/1."), f"no answer begins so: {line!r}"
        headers = {}
        status = int(line.split()[1])
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            length = headers.get("content-length")
            return self.file.read(None if length is None else int(length))
        body = b""
        while size := int(self.file.readline(), 16):
            body += self.file.read(size)
            self.file.readline()
        self.file.readline()
        return body

    def is_closed(self) -> bool:
        """Waits for the other side to close."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


def connect(url: str, receive_buffer: int | None = None) -> Connection:
    address = urlsplit(url)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(TIMEOUT_S)
    sock.connect((address.hostname, address.port))
    return Connection(sock)


def exchange(url: str, data: bytes, *, ends: bool = False) -> RawAnswer | None:
    """What a connection of its own answers to these bytes; None: it was closed without an answer.
    ends: the client says that it will send no more."""
    with connect(url) as connection:
        # What is refused before all of it was sent is answered all the same.
        connection.send_what_is_taken(data)
        with contextlib.suppress(OSError):
            if ends:
                connection.sock.shutdown(socket.SHUT_WR)
            return connection.read_answer(data.split(b" ", 1)[0].decode("latin-1"))
    return None


def request(
    line: str,
    *headers: str | bytes,
    key: str = "",
    body: bytes = b"",
    host: str | None = "localhost",
    kind: str | None = "application/json",
    length: bool = True,
) -> bytes:
    """A request of HTTP/1.1 as it goes over the wire, with headers that may be none."""
    lines: list[str | bytes] = [line]
    lines += [f"Host: {host}"] if host is not None else []
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += [f"Content-Type: {kind}"] if kind is not None else []
    lines += [f"Content-Length: {len(body)}"] if length and body else []
    lines += headers
    raw = [one.encode("latin-1") if isinstance(one, str) else one for one in lines]
    return b"\r\n".join([*raw, b"", b""]) + body
