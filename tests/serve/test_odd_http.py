"""What clients may send over a socket beside HTTP/1.1 as libraries speak it (`odd_http.py`)."""

import json

import pytest

from tests.door.bad.addresses import METHODS
from tests.serve.history import History
from tests.serve.odd_http import CHAT, GOOD, TABLE, Odd
from tests.serve.raw import connect, exchange, request


def what_is_wrong(odd: Odd, url: str, key: str) -> str | None:
    reply = exchange(url, odd.as_bytes(key))
    if reply is None:
        return "it was closed without an answer"
    if reply.status != odd.status:
        return f"{reply.status}, not {odd.status}: {reply.body[:200]!r}"
    if not reply.headers["x-request-id"].startswith("req_"):
        return "no request id"
    if odd.status == 200:
        return None if reply.json()["object"] in ("chat.completion", "list") else "another answer"
    if not reply.is_envelope:
        return f"no envelope: {reply.body[:200]!r}"
    error = reply.error
    if len(error["message"]) > 500:
        return f"a message of {len(error['message'])} characters"
    return None if error["code"] == odd.code else f"{error}, not {odd.code}"


def test_odd_requests_are_served_or_refused_in_the_envelope(echo, echo_key) -> None:
    pid = echo.pid
    problems = [(odd, what_is_wrong(odd, echo.url, echo_key)) for odd in TABLE]
    wrong = [f"{odd}\n    {problem}" for odd, problem in problems if problem]
    assert not wrong, f"{len(wrong)} of {len(TABLE)}:\n" + "\n".join(wrong)
    assert (echo.pid, echo.running.poll()) == (pid, None)
    assert "Traceback" not in echo.err
    statuses = {row.status for row in History(echo.var_dir, echo.database_url).read().completions}
    assert statuses == {"completed"}


def test_a_body_that_is_shorter_than_it_said_is_no_request(echo, echo_key) -> None:
    history = History(echo.var_dir, echo.database_url)
    before = len(history.read().completions)
    head = request(CHAT, f"Content-Length: {len(GOOD) + 5}", key=echo_key)
    assert exchange(echo.url, head + GOOD, ends=True) is None
    assert len(history.read().completions) == before


def test_a_refused_request_is_the_last_of_its_connection(echo, echo_key) -> None:
    """What follows malformed bytes may be anything, so it is not read."""
    good = request(CHAT, key=echo_key, body=GOOD)
    with connect(echo.url) as connection:
        connection.send(good + b"hello\r\n\r\n" + good)
        first, second = connection.read_answer(), connection.read_answer()
        assert (first.status, second.status) == (200, 400)
        assert second.headers["connection"] == "close"
        assert connection.is_closed()


def test_what_only_the_application_refuses_keeps_the_connection(echo, echo_key) -> None:
    good = request(CHAT, key=echo_key, body=GOOD)
    others = [
        request(CHAT, key=echo_key, body=b"{"),
        request(CHAT, key=echo_key, body=b'{"messages": []}'),
        request("GET /nothing HTTP/1.1", key=echo_key),
        request("DELETE /v1/models HTTP/1.1", key=echo_key),
    ]
    with connect(echo.url) as connection:
        connection.send(good.join([b"", *others, b""]))
        statuses = [connection.read_answer().status for _ in range(9)]
    assert statuses == [200, 400, 200, 400, 200, 404, 200, 405, 200]


def test_a_client_that_waits_for_100_continue_gets_it_first(echo, echo_key) -> None:
    whole = request(CHAT, "Expect: 100-continue", key=echo_key, body=GOOD)
    with connect(echo.url) as connection:
        connection.send(whole[: -len(GOOD)])
        assert connection.read_head() == (100, {})
        connection.send(GOOD)
        assert connection.read_answer().status == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_every_route_answers_head_and_options_over_a_socket(echo, echo_key, method) -> None:
    """Of HEAD no byte of a body comes: the next answer would begin with it."""
    for path, allowed in METHODS.items():
        path = path.replace("{", "x").replace("}", "x")
        line = request(f"{method} {path} HTTP/1.1", key=echo_key)
        with connect(echo.url) as connection:
            connection.send(line + request("GET /health HTTP/1.1"))
            asked, health = connection.read_answer(method), connection.read_answer()
        expected = (200, 404, 403) if method in allowed else (405, 403)  # 403: not for this key
        assert asked.status in expected, (path, asked)
        assert json.loads(health.body) == {"status": "ok"}
