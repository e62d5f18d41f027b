"""The server beneath Django: large answers wait for their readers, and are broken off by errors."""

import contextlib
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serve.bare import bare_server
from tests.serve.server import until

PIECE = 64 * 1024

APPLICATION = f"""
sent = 0

async def application(scope, receive, send):
    global sent
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    if scope["path"] == "/sent":
        await send({{"type": "http.response.body", "body": str(sent).encode()}})
        return
    while sent < 2000:
        sent += 1
        await send({{"type": "http.response.body", "body": b"x" * {PIECE}, "more_body": True}})
        if scope["path"] == "/broken" and sent >= 3:
            raise OSError("in the middle")
    await send({{"type": "http.response.body"}})
"""


@pytest.fixture
def url() -> Iterator[str]:
    with bare_server(APPLICATION) as server:
        yield server.url


@pytest.fixture
def impatient_url() -> Iterator[str]:
    with bare_server(APPLICATION, stalled_timeout_s=0.5) as server:
        yield server.url


def sent(url: str) -> int:
    return int(httpx.get(f"{url}/sent").text)


def test_a_large_answer_is_made_no_faster_than_it_is_read(url) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(f"GET /all HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        until(lambda: sent(url) >= 8, "the first half megabyte")
        before = -1
        while before != (before := sent(url)):
            time.sleep(0.3)  # until it stands still
        # Of 125 MB: what the kernel's buffers of both sides take, and a little.
        assert before < 400
        got = 0
        while got < 10 * 1024 * 1024:
            got += len(reader.recv(1 << 20))
        until(lambda: sent(url) > before, "more, for there is room again")


def test_an_answer_that_fails_in_the_middle_is_not_taken_for_whole(url) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        httpx.get(f"{url}/broken", timeout=10)
    # What looks after all connections has outlived it: another one is broken off too.
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        httpx.get(f"{url}/broken", timeout=10)
    assert sent(url) == 4


def test_who_reads_nothing_of_a_large_answer_is_broken_off(impatient_url) -> None:
    host, _, port = impatient_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as reader:
        reader.sendall(f"GET /all HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        # Nobody waits for room any more.
        until(lambda: sent(impatient_url) == 2000, "the end of the application")
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := reader.recv(1 << 20):
                got += len(piece)
    assert got < 2000 * PIECE
