"""What clients may take by their connections alone: bodies, headers, time, and answers unread."""

import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.serve.bare import BareServer, bare_server
from tests.serve.raw import Connection, RawAnswer
from tests.serve.server import until

MB = 1024 * 1024

# `seen`: what became of each request. Paths say what the application does.
APPLICATION = """
import json

seen = []
let_go = asyncio.Event()

async def application(scope, receive, send):
    async def answer(value):
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})

    path = scope["path"]
    if path == "/seen":
        await answer(seen)
        return
    if path == "/let-go":
        let_go.set()
        await answer("gone on")
        return
    record = {"path": path, "bytes": 0, "ended": None}
    seen.append(record)
    more = True
    while more:
        message = await receive()
        record["bytes"] += len(message["body"])
        more = message["more_body"]
    if path == "/understood":  # what the door does once a request is accepted
        scope["forget_body"]()
    if path in ("/waits", "/understood"):
        await let_go.wait()
    if path in ("/stream", "/fast-stream"):
        await stream(record, receive, send, 0.02 if path == "/stream" else 0.002)
        return
    await answer(record)
    record["ended"] = "answered"

async def stream(record, receive, send, pause_s):
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone = asyncio.ensure_future(receive())
    while not gone.done():
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(pause_s)
    record["ended"] = gone.result().get("reason", "left")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[BareServer]:
    """One megabyte a body, four together; times that no test waits for."""
    with bare_server(APPLICATION, max_body_bytes=MB, max_bodies_bytes=4 * MB) as server:
        yield server


@pytest.fixture(scope="module")
def hasty() -> Iterator[BareServer]:
    """Waits for nothing longer than half a second."""
    with bare_server(
        APPLICATION,
        header_timeout_s=0.5,
        body_timeout_s=0.5,
        idle_timeout_s=0.5,
        stalled_timeout_s=0.5,
    ) as server:
        yield server


def head(path: str, *headers: str, method: str = "POST") -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""])


def ask(server: BareServer, data: str | bytes) -> RawAnswer:
    with server.connect() as connection:
        connection.send(data)
        return connection.read_answer()


def check_refusal(answer: RawAnswer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"]) == (status, code)
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"].isdecimal()
    assert answer.headers["connection"] == "close"
    if status == 503:
        assert 1 <= int(answer.headers["retry-after"]) <= 120


# ---- bodies --------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_long_is_refused_before_a_byte_of_it(server) -> None:
    with server.connect() as connection:
        connection.send(head("/refused-by-length", f"Content-Length: {MB + 1}"))
        check_refusal(connection.read_answer(), 413, "request_too_large")
        assert connection.is_closed()
    assert not [r for r in server.get("/seen") if r["path"] == "/refused-by-length"]


def test_who_sends_it_all_the_same_can_read_the_answer_afterwards(server) -> None:
    with server.connect() as connection:
        connection.send(head("/", f"Content-Length: {20 * MB}"))
        sent = connection.send_what_is_taken(b"x" * MB, 20)
        check_refusal(connection.read_answer(), 413, "request_too_large")
    assert sent == 20 * MB, "what came was thrown away, not left to be reset"


def test_the_longest_body_is_taken_whole(server) -> None:
    answer = ask(server, head("/", f"Content-Length: {MB}").encode() + b"x" * MB)
    assert (answer.status, answer.headers["x-request-id"][:4]) == (200, "req_")
    assert b'"bytes": %d' % MB in answer.body


def test_a_body_in_chunks_is_cut_off_where_it_passes_the_cap(server) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    for pieces, status in ((16, 200), (17, 413)):
        with server.connect() as connection:
            connection.send(head("/chunks", "Transfer-Encoding: chunked"))
            connection.send(chunk * pieces)
            if status == 200:
                connection.send(b"0\r\n\r\n")
                assert connection.read_answer().status == 200
            else:  # there is no end to be waited for
                check_refusal(connection.read_answer(), 413, "request_too_large")
                assert connection.is_closed()
    assert [r["bytes"] for r in server.get("/seen") if r["path"] == "/chunks"] == [MB]


def test_who_asks_before_sending_too_much_is_told_no_at_once(server) -> None:
    with server.connect() as connection:
        expects = ("Expect: 100-continue", f"Content-Length: {2 * MB}")
        connection.send(head("/", *expects))
        assert connection.file.peek().startswith(b"HTTP/1.1 413 ")
        check_refusal(connection.read_answer(), 413, "request_too_large")
    with server.connect() as connection:
        connection.send(head("/", "Expect: 100-continue", "Content-Length: 3"))
        assert connection.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        connection.file.readline()
        connection.send("abc")
        assert connection.read_answer().status == 200


def test_two_lengths_or_a_length_that_is_none_are_a_400(server) -> None:
    for headers in (
        ("Content-Length: 3", "Transfer-Encoding: chunked"),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: many",),
        ("Content-Length: -1",),
        ("Transfer-Encoding: gzip, chunked",),
    ):
        check_refusal(ask(server, head("/", *headers)), 400, "invalid_http")
    broken = head("/", "Transfer-Encoding: chunked") + "zz\r\n"
    check_refusal(ask(server, broken), 400, "invalid_http")


def test_bodies_together_are_bounded_and_short_ones_still_pass(server) -> None:
    """Four megabytes together: with three and a half in the house a whole one has no room."""
    length = 900 * 1024
    connections = [server.connect() for _ in range(4)]
    try:
        for connection in connections:
            connection.send(head("/waits", f"Content-Length: {length}").encode())
            connection.send(b"x" * (length - 1))
        until(lambda: length_refused(server, length), "the four bodies are there")
        check_refusal(ask(server, head("/", f"Content-Length: {length}")), 503, "overloaded")
        assert ask(server, head("/", "Content-Length: 3") + "abc").status == 200
        for connection in connections:
            connection.send(b"x")
        # Complete, but not understood: they count on, until the application begins its answers.
        until(lambda: waiting(server, "/waits") == 4, "all four are with the application")
        assert length_refused(server, length)
        server.get("/let-go")
        assert [c.read_answer().status for c in connections] == [200] * 4
        assert not length_refused(server, length)
    finally:
        for connection in connections:
            connection.__exit__()


def test_a_body_that_was_understood_counts_no_longer() -> None:
    with bare_server(APPLICATION, max_body_bytes=MB, max_bodies_bytes=MB) as server:
        whole = head("/understood", f"Content-Length: {MB}").encode() + b"x" * MB
        with server.connect() as first, server.connect() as second:
            for count, connection in enumerate((first, second), 1):
                connection.send(whole)
                until(lambda n=count: waiting(server, "/understood") == n, "it is understood")
            server.get("/let-go")
            assert [c.read_answer().status for c in (first, second)] == [200, 200]


def test_a_client_that_leaves_in_its_body_gives_its_room_back(server) -> None:
    for _ in range(3):
        connections = [server.connect() for _ in range(4)]
        for connection in connections:
            connection.send(head("/", f"Content-Length: {MB}").encode() + b"x" * (900 * 1024))
        until(lambda: length_refused(server, MB), "no room is left")
        for connection in connections:
            connection.__exit__()
        until(lambda: not length_refused(server, MB), "there is room again")


def length_refused(server: BareServer, length: int) -> bool:
    with server.connect() as connection:
        connection.send(head("/", f"Content-Length: {length}", "Expect: 100-continue"))
        return b"503" in connection.file.readline()


def waiting(server: BareServer, path: str) -> int:
    return len([r for r in server.get("/seen") if r["path"] == path and not r["ended"]])


def test_fifty_clients_with_a_hundred_megabytes_each_do_not_fill_the_memory() -> None:
    """Default bounds. Half say how long their body is, half send chunks and say nothing."""
    piece = b"x" * MB
    with bare_server(APPLICATION) as server:
        ask(server, head("/", "Content-Length: 3") + "abc")
        process = psutil.Process(server.pid)
        before, most = process.memory_info().rss, 0
        statuses: list[int] = []

        def send(number: int) -> None:
            with server.connect() as connection:
                if number % 2:
                    connection.send(head("/waits", "Transfer-Encoding: chunked"))
                    connection.send_what_is_taken(b"100000\r\n" + piece + b"\r\n", 100)
                else:
                    connection.send(head("/waits", f"Content-Length: {100 * MB}"))
                    connection.send_what_is_taken(piece, 100)
                statuses.append(connection.read_answer().status)

        clients = [threading.Thread(target=send, args=(n,)) for n in range(50)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            most = max(most, process.memory_info().rss)
            time.sleep(0.01)
        assert ask(server, head("/", "Content-Length: 3") + "abc").status == 200
    assert len(statuses) == 50, "everybody could read an answer"
    assert set(statuses) <= {413, 503}
    # All bodies together may be 64 MiB.
    grown = (most - before) / MB
    print(f"grown by {grown:.0f} MiB")
    assert grown < 128, f"{grown:.0f} MiB"


# ---- headers -------------------------------------------------------------------------------------


def test_too_much_before_the_body_is_refused_in_the_envelope(server) -> None:
    for request, status, code in (
        (head("/" + "a" * 20_000), 414, "address_too_long"),
        ("GET /" + "a" * 40_000, 414, "address_too_long"),
        (head("/", "X-Long: " + "a" * 20_000), 431, "headers_too_large"),
        (head("/", *(f"X-{n}: {'a' * 100}" for n in range(300))), 431, "headers_too_large"),
        (head("/", *(f"X{n}: a" for n in range(501))), 431, "headers_too_large"),
        (head("/", "no colon"), 400, "invalid_http"),
        (head("/", "bad name: a"), 400, "invalid_http"),
        (head("/", "X: a\0b"), 400, "invalid_http"),
        ("nonsense\r\n\r\n", 400, "invalid_http"),
        ("GET / HTTP/9\r\n\r\n", 400, "invalid_http"),
    ):
        check_refusal(ask(server, request), status, code)
    assert ask(server, head("/", *(f"X{n}: a" for n in range(490)), method="GET")).status == 200


def test_what_daphne_finds_wrong_is_told_in_the_envelope(server) -> None:
    for request in (head("/?q=\xe9"), head("/\xe9"), head("/", "X: a\x0bb")):
        answer = ask(server, request)
        assert (answer.status, answer.error["code"]) == (400, "invalid_http")
        assert answer.headers["x-request-id"].startswith("req_")


def test_another_protocol_that_is_offered_is_answered_in_http(server) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    answer = ask(server, head("/", *upgrade, "Sec-WebSocket-Key: YWJj", method="GET"))
    assert answer.status == 200


# ---- time ----------------------------------------------------------------------------------------


def drip(connection: Connection, piece: bytes) -> None:
    """Sends it again and again, without an end, until an answer comes."""
    connection.sock.settimeout(0.05)
    while True:
        try:
            connection.send(piece)
            if connection.sock.recv(1, 2):  # MSG_PEEK
                break
        except TimeoutError:
            continue
    connection.sock.settimeout(30)


def test_headers_that_drip_in_are_not_waited_for(hasty) -> None:
    with hasty.connect() as connection:
        connection.send("GET / HTTP/1.1\r\n")
        drip(connection, b"X: a\r\n")
        check_refusal(connection.read_answer(), 408, "request_timeout")
        assert connection.is_closed()


@pytest.mark.parametrize("by", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_body_that_drips_in_is_not_waited_for(hasty, by) -> None:
    with hasty.connect() as connection:
        connection.send(head("/dripped", by))
        drip(connection, b"1\r\nx\r\n")
        check_refusal(connection.read_answer(), 408, "request_timeout")
        assert connection.is_closed()
    assert not [r for r in hasty.get("/seen") if r["path"] == "/dripped"]


def test_a_body_that_comes_slowly_but_steadily_is_waited_for(hasty) -> None:
    """Sixteen kilobytes earn it two seconds, and these it may take."""
    with hasty.connect() as connection:
        connection.send(head("/", "Content-Length: 16390"))
        connection.send(b"x" * 16384)
        for _ in range(6):
            time.sleep(0.3)
            connection.send(b"x")
        assert connection.read_answer().status == 200


def test_a_connection_without_a_request_is_closed_in_time(hasty) -> None:
    with hasty.connect() as silent, hasty.connect() as kept:
        kept.send(head("/", method="GET"))
        assert kept.read_answer().status == 200
        assert kept.is_closed()
        assert silent.is_closed()


def test_an_answer_that_lets_wait_is_waited_for(hasty) -> None:
    """Much longer than anything that a client may take."""
    with hasty.connect() as connection:
        connection.send(head("/waits", method="GET"))
        until(lambda: waiting(hasty, "/waits") == 1, "it is with the application")
        time.sleep(3)
        hasty.get("/let-go")
        assert connection.read_answer().status == 200


# ---- answers unread ------------------------------------------------------------------------------


def stream_ended(server: BareServer) -> str | None:
    """How the latest stream ended."""
    ended: str | None = [r for r in server.get("/seen") if "stream" in r["path"]][-1]["ended"]
    return ended


def test_who_reads_nothing_of_a_stream_counts_as_gone(hasty) -> None:
    with hasty.connect(receive_buffer=4096) as connection:
        connection.send(head("/stream", method="GET"))
        ended = until(lambda: stream_ended(hasty), "the stream ends")
    assert ended == "The client did not read its answer."


def test_who_reads_a_stream_slowly_goes_on_reading(hasty) -> None:
    with hasty.connect(receive_buffer=65536) as connection:
        connection.send(head("/stream", method="GET"))
        for _ in range(30):  # six times as long as one may read nothing
            time.sleep(0.1)
            assert connection.sock.recv(262144)
        assert stream_ended(hasty) is None


def test_what_waits_for_slow_readers_is_bounded() -> None:
    with (
        bare_server(APPLICATION, max_unread_bytes=4 * MB) as server,
        server.connect(receive_buffer=4096) as connection,
    ):
        connection.send(head("/fast-stream", method="GET"))
        before = psutil.Process(server.pid).memory_info().rss
        ended = until(lambda: stream_ended(server), "the stream ends")
        grown = (psutil.Process(server.pid).memory_info().rss - before) / MB
    assert "too slowly" in ended
    # It is looked at once a second; what comes in a second or two, and no more.
    assert grown < 200, f"{grown:.0f} MiB"


# ---- connections ---------------------------------------------------------------------------------


def test_of_too_many_connections_idle_ones_are_closed_for_new_ones() -> None:
    with bare_server(APPLICATION, max_connections=4) as server:
        idle = [server.connect() for _ in range(4)]
        for connection in idle:
            connection.send(head("/", method="GET"))
            assert connection.read_answer().status == 200
        until(lambda: not is_refused(server), "they are idle for long enough")
        assert idle[0].is_closed()
        idle[3].send(head("/", method="GET"))
        assert idle[3].read_answer().status == 200
        for connection in idle:
            connection.__exit__()


def test_past_the_bound_a_new_connection_is_a_503_and_room_comes_back() -> None:
    with bare_server(APPLICATION, max_connections=4) as server:
        busy = [server.connect() for _ in range(4)]
        for connection in busy:
            connection.send(head("/waits", method="GET"))
        # The fifth is told so, whoever it is.
        until(lambda: is_refused(server), "four are busy")
        check_refusal(ask(server, head("/", method="GET")), 503, "too_many_connections")
        for connection in busy[:2]:
            connection.__exit__()
        until(lambda: not is_refused(server), "there is room again")
        server.get("/let-go")
        assert [c.read_answer().status for c in busy[2:]] == [200, 200]
        for connection in busy[2:]:
            connection.__exit__()


def is_refused(server: BareServer) -> bool:
    return ask(server, head("/", method="GET")).status == 503
