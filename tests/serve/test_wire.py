"""What clients do to a connection: large, slow, chunked, pipelined and broken requests."""

import http.client
import json
import socket
import struct
import time
from contextlib import closing
from urllib.parse import urlsplit

import httpx

from tests.serve.asking import (
    CHAT,
    TIMEOUT,
    bearer,
    chat,
    post,
    request_bytes,
    streaming,
)
from tests.serve.raw import connect
from tests.serve.server import until


def as_bytes(body: dict) -> bytes:
    return json.dumps(body).encode()


def test_a_long_prompt_is_answered(server, key):
    answer = post(server.url, key, CHAT, chat(3, "one two three four " * 1000))
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] > 4000


def test_a_body_of_megabytes_is_refused_by_its_length_and_nobody_waits_for_it(server, key):
    # Bounds without a meaning of their own: the same by a crawling tokenizer takes minutes.
    began = time.monotonic()
    answer = post(server.url, key, CHAT, chat(3, "x" * 5_000_000))
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    answer = post(server.url, key, CHAT, chat(3, "x" * 9_000_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert time.monotonic() - began < 20
    assert post(server.url, key, CHAT, chat(1)).status_code == 200


def test_a_body_in_chunks_without_content_length_is_read(server, key):
    def pieces():
        body = as_bytes(chat(3, "Hello " * 2000))
        for start in range(0, len(body), 5000):
            yield body[start : start + 5000]

    answer = httpx.post(
        server.url + CHAT,
        content=pieces(),
        headers=bearer(key) | {"Content-Type": "application/json"},
        timeout=TIMEOUT,
    )
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens"] > 2000


def test_a_slow_upload_is_waited_for_and_keeps_nobody_waiting(server, key):
    body = as_bytes(chat(3, "slowly " * 300))
    whole = request_bytes(server.url, CHAT, key, body)
    with connect(server.url) as connection:
        for start in range(0, len(whole), 1000):
            # Between two pieces others are served.
            assert post(server.url, key, CHAT, chat(1)).status_code == 200
            connection.send(whole[start : start + 1000])
        answer = connection.read_answer()
    assert answer.status == 200, answer.body


def test_a_body_that_never_ends_leaves_no_row_and_no_harm(server, key, history):
    before = len(history.read().completions)
    whole = request_bytes(server.url, CHAT, key, as_bytes(chat(3)))
    with connect(server.url) as connection:
        connection.send(whole[:-5])
    assert post(server.url, key, CHAT, chat(1)).status_code == 200
    assert len(history.read().completions) == before + 1


def test_one_connection_carries_many_requests(server, key):
    address = urlsplit(server.url)
    with closing(http.client.HTTPConnection(address.hostname, address.port, timeout=30)) as client:
        client.connect()
        first = client.sock
        headers = bearer(key) | {"Content-Type": "application/json"}
        for body in (chat(2), {"messages": []}, chat(5, stream=True), chat(2)):
            client.request("POST", CHAT, as_bytes(body), headers)
            answer = client.getresponse()
            content = answer.read()
            assert answer.status == (200 if body["messages"] else 400), content
            assert (b"[DONE]" in content) == ("stream" in body)
            client.request("GET", "/health")
            answer = client.getresponse()
            assert json.loads(answer.read()) == {"status": "ok"}
        assert client.sock is first, "the connection was kept"


def test_below_a_path_that_a_proxy_names_the_door_is_found(server, key):
    headers = bearer(key) | {"Daphne-Root-Path": "/llm"}
    answer = httpx.post(server.url + "/llm" + CHAT, json=chat(1), headers=headers, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text


def test_pipelined_requests_are_answered_in_their_order(server, key):
    requests = [
        request_bytes(server.url, CHAT, key, as_bytes(chat(20, stream=True))),
        request_bytes(server.url, "/health", key, b"", method="GET"),
        request_bytes(server.url, CHAT, key, as_bytes(chat(2))),
        request_bytes(server.url, "/v1/models", key, b"", method="GET"),
    ]
    with connect(server.url) as connection:
        connection.send(b"".join(requests))
        answers = [connection.read_answer() for _ in requests]
    assert [answer.status for answer in answers] == [200, 200, 200, 200]
    streamed, health, whole, models = (answer.body for answer in answers)
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert json.loads(health) == {"status": "ok"}
    assert json.loads(whole)["object"] == "chat.completion"
    assert json.loads(models)["object"] == "list"


def test_a_client_that_reads_late_gets_every_event(server, key, history):
    # More than the kernel takes: most of it waits in the server until the client reads.
    body = chat(700, stream=True, n=8, logprobs=True, top_logprobs=20)
    before = len(history.read().completions)
    with connect(server.url, receive_buffer=4096) as connection:
        connection.send(request_bytes(server.url, CHAT, key, as_bytes(body)))
        until(lambda: ended(history.read().completions[before:]), "the row ends")
        assert post(server.url, key, CHAT, chat(1)).status_code == 200
        whole = connection.read_answer()
    assert whole.status == 200
    answer = whole.body
    assert len(answer) > 5_000_000
    assert answer.endswith(b"data: [DONE]\n\n")
    events = [json.loads(event[6:]) for event in answer.split(b"\n\n")[:-2]]
    told = [event["choices"][0]["logprobs"] for event in events]
    assert sum(len(logprobs["content"]) for logprobs in told if logprobs) == 8 * 700


def ended(completions) -> bool:
    return bool(completions) and all(row.status == "completed" for row in completions)


def test_a_client_that_breaks_off_in_mid_stream_is_kept_as_cancelled(server, key, history):
    body = as_bytes(chat(16000, "Cut me", stream=True))
    with connect(server.url) as connection:
        connection.send(request_bytes(server.url, CHAT, key, body))
        received = b""
        while received.count(b'"content":"') < 10:
            received += connection.sock.recv(4096)
        # No goodbye: the kernel answers the next byte with a reset.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    public_id = received.partition(b'"id":"')[2].partition(b'"')[0].decode()
    row = until(
        lambda: next(
            (
                r
                for r in history.read().completions
                if r.public_id == public_id and r.status != "running"
            ),
            None,
        ),
        "the row ends",
    )
    assert row.status == "cancelled"
    assert 0 < row.completion_tokens < 16000
    with streaming(server.url, key, chat(200, "Cut me")) as again:
        again.read()
    (kept,) = row.texts
    assert kept
    assert kept.startswith(again.text) or again.text.startswith(kept), "it is what was generated"
