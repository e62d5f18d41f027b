"""The server beneath Django with an application of a few lines: what is between it and sockets."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.serve.server import PROJECT_DIR

PROGRAM = """
import asyncio
import daphne.server  # installs the reactor
from config.env import ServerSettings
from llmapi.server import DoorServer, bind
from llmapi.wire.bounds import Bounds

{application}

bounds = Bounds.of(ServerSettings({settings}))
listener = bind("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
DoorServer(application, listener, bounds, 1.0).run()
"""


class BareServer:
    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self, receive_buffer: int | None = None) -> "Connection":
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", self.port))
        return Connection(sock)

    def get(self, path: str) -> Any:
        """The JSON of an answer, on a connection of its own."""
        with self.connect() as connection:
            connection.send(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n")
            return json.loads(connection.read_answer().body)


class RawAnswer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


class Connection:
    """A socket; closed at the end of the block."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: str | bytes) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def send_what_is_taken(self, data: bytes, times: int) -> int:
        """`data` again and again, until the other side takes no more; the bytes that were sent."""
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(times):
                self.sock.sendall(data)
                sent += len(data)
        return sent

    def read_answer(self) -> RawAnswer:
        """The next answer that is no `100 Continue`."""
        while True:
            line = self.file.readline()
            assert line, "the connection was closed without an answer"
            status, headers = int(line.split()[1]), {}
            while (line := self.file.readline().strip()) != b"":
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if status == 100:
                continue
            return RawAnswer(status, headers, self.read_body(headers))

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.file.read(int(headers["content-length"]))
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


@contextlib.contextmanager
def bare_server(application: str, **settings: Any) -> Iterator[BareServer]:
    """`application`: source of an ASGI application of that name."""
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    program = PROGRAM.format(application=application, settings=given)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT_DIR,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield BareServer(process, port)
        finally:
            process.terminate()
            process.wait(timeout=20)
