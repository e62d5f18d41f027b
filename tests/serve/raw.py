"""Bytes over a socket, and what is answered: for requests that no client library would send."""

import http.client
import json
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    """By names in lower case."""

    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_envelope(self) -> bool:
        try:
            value = self.json()
        except ValueError:
            return False
        keys = {"message", "type", "param", "code"}
        return set(value) == {"error"} and set(value["error"]) == keys


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S)


def read_reply(sock: socket.socket, method: str = "GET") -> Reply:
    """The next answer; interim ones (100 Continue) are passed over. Raises OSError,
    HTTPException: there is none."""
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def read_pipelined(sock: socket.socket, count: int, method: str = "GET") -> list[Reply]:
    """Answers that share one buffer; `HTTPResponse` closes its file after each. method: of the
    first."""

    class Shared:
        def __init__(self, file: Any) -> None:
            self.file = file

        def makefile(self, *_: Any) -> "Shared":
            return self

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def close(self) -> None:
            """The next answer needs it."""

        def flush(self) -> None:
            """`HTTPResponse` calls it when it closes."""

    with sock.makefile("rb") as file:
        shared: Any = Shared(file)
        return [read_reply(shared, "GET" if number else method) for number in range(count)]


def exchange(url: str, data: bytes, *, ends: bool = False) -> Reply | None:
    """What a connection of its own answers to these bytes; None: it was closed without an answer.
    ends: the client says that it will send no more."""
    with closing(connect(url)) as sock:
        try:
            sock.sendall(data)
            if ends:
                sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent: the answer is there all the same
        try:
            return read_reply(sock, data.split(b" ", 1)[0].decode("latin-1"))
        except (http.client.RemoteDisconnected, ConnectionResetError):
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
