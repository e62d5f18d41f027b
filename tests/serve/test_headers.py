"""Every answer can be named in a complaint: pages, files, errors, and what no application saw."""

import re

import httpx
import pytest

from tests.serve.asking import CHAT, TIMEOUT, bearer, chat
from tests.serve.raw import connect

REQUEST_ID = re.compile(r"req_[0-9a-f]{24}")

PATHS = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/docs/"),
    ("GET", "/openapi.json"),
    ("GET", "/sign-in/"),
    ("GET", "/admin/"),
    ("GET", "/history/"),
    ("GET", "/nothing/here"),
    ("GET", "/v1/nothing"),
    ("GET", "/v1/models"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/conversations"),
    ("GET", CHAT),
    ("PUT", CHAT),
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/sign-in/"),
    ("OPTIONS", "/v1/models"),
    ("GET", "/static/accounts/pages.css"),
    ("GET", "/static/nothing.css"),
    ("GET", "/favicon.ico"),
    ("GET", "/?q=%00"),
]

BROKEN = [
    "GET /" + "a" * 20_000 + " HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nX: " + "a" * 20_000 + "\r\n\r\n",
    "nonsense\r\n\r\n",
    f"POST {CHAT} HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    "POST /sign-in/ HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    "GET /?q=\xe9 HTTP/1.1\r\n\r\n",
]


def check(headers) -> None:
    assert REQUEST_ID.fullmatch(headers["x-request-id"]), headers
    assert headers["openai-processing-ms"].isdecimal(), headers


@pytest.mark.parametrize("with_key", [True, False])
def test_every_route_names_its_answers(server, key, with_key) -> None:
    headers = bearer(key) if with_key else {}
    seen = []
    with httpx.Client(base_url=server.url, headers=headers, timeout=TIMEOUT) as client:
        for method, path in PATHS:
            answer = client.request(method, path)
            check(answer.headers)
            assert "," not in answer.headers["x-request-id"], "one id, and not two"
            seen.append(answer.headers["x-request-id"])
        answer = client.get("/static/accounts/pages.css")
        assert answer.status_code == 200
    assert len(set(seen)) == len(seen)


def test_streams_have_theirs_too(server, key) -> None:
    body = chat(2, stream=True)
    with httpx.stream(
        "POST", server.url + CHAT, json=body, headers=bearer(key), timeout=TIMEOUT
    ) as answer:
        assert answer.status_code == 200
        check(answer.headers)


@pytest.mark.parametrize("request_text", BROKEN)
def test_what_is_refused_before_it_is_read_is_named_too(server, request_text) -> None:
    with connect(server.url) as connection:
        connection.send(request_text)
        answer = connection.read_answer()
    assert 400 <= answer.status < 500
    check(answer.headers)
    assert answer.is_envelope


def test_who_has_limits_hears_of_them_in_every_answer(server) -> None:
    key = server.manage("createkey", "limited", "--requests-per-minute", "1000").strip()
    with httpx.Client(base_url=server.url, headers=bearer(key), timeout=TIMEOUT) as client:
        for path in (CHAT, "/v1/completions", "/v1/embeddings"):
            for body in ({}, {"model": "nothing"}, {"messages": 5}, chat(1)):
                answer = client.post(path, json=body)
                assert answer.headers["x-ratelimit-limit-requests"] == "1000"
                assert int(answer.headers["x-ratelimit-remaining-requests"]) <= 1000
                assert "x-ratelimit-reset-requests" in answer.headers
