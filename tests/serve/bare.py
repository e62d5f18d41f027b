"""The server beneath Django with an application of a few lines: what is between it and sockets."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.serve.raw import Connection, connect
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

    def connect(self, receive_buffer: int | None = None) -> Connection:
        return connect(self.url, receive_buffer)

    def get(self, path: str) -> Any:
        """The JSON of an answer, on a connection of its own."""
        with self.connect() as connection:
            connection.send(f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n")
            return json.loads(connection.read_answer().body)


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
