"""Idempotency keys on real servers: by the official SDK, over two processes, after a kill."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.serve.asking import CHAT, HELLO, TIMEOUT, Stream, bearer, chat
from tests.serve.history import History
from tests.serve.server import until

MODEL = "nonsense"
SLOW_ECHO = {"model": None, "flags": (), "LLMAPI_ENGINE": "echo", "LLMAPI_ECHO_DELAY_MS": "10"}
ASKED = {"model": MODEL, "messages": HELLO, "temperature": 1.5, "max_tokens": 20}


def keyed(key: str, word: str) -> dict[str, str]:
    return {**bearer(key), "Idempotency-Key": word}


@pytest.fixture(scope="module")
def client(server, key):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_the_sdk_gets_the_same_answer_again(client):
    headers = {"Idempotency-Key": "sdk-whole"}
    first = client.chat.completions.create(**ASKED, extra_headers=headers)
    raw = client.chat.completions.with_raw_response.create(**ASKED, extra_headers=headers)
    assert raw.headers["idempotent-replayed"] == "true"
    assert raw.parse() == first


def test_the_sdk_reads_a_stream_that_is_told_again(client):
    asked = {**ASKED, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    texts = []
    for _ in range(2):
        with client.chat.completions.create(
            **asked, extra_headers={"Idempotency-Key": "sdk-stream"}
        ) as stream:
            *chunks, last = stream
        said = ["", ""]
        for chunk in chunks:
            (choice,) = chunk.choices
            said[choice.index] += choice.delta.content or ""
        texts.append((said, last.id, last.usage))
    assert texts[0] == texts[1]
    assert all(texts[0][0])


def test_the_sdk_reads_embeddings_that_are_sent_again(client):
    asked = {"model": MODEL, "input": ["one", "two"]}
    headers = {"Idempotency-Key": "sdk-embeddings"}
    first = client.embeddings.create(**asked, extra_headers=headers)
    assert client.embeddings.create(**asked, extra_headers=headers) == first


def test_the_sdk_waits_by_itself_for_the_answer_that_is_under_way(server, key, history):
    """It tries again after a 409, when the server says."""
    asked = {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 4000}
    headers = {"Idempotency-Key": "sdk-waits"}
    before = len(history.read().completions)
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=9) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.chat.completions.create, **asked, extra_headers=headers)
        until(lambda: len(history.read().completions) > before, "the first is accepted")
        second = client.chat.completions.create(**asked, extra_headers=headers)
        assert second == first.result()
    assert len(history.read().completions) == before + 1


def test_the_sdk_gives_up_at_once_when_the_key_stands_for_something_else(client):
    headers = {"Idempotency-Key": "sdk-reused"}
    client.chat.completions.create(**ASKED, extra_headers=headers)
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(**{**ASKED, "n": 2}, extra_headers=headers)
    assert caught.value.code == "idempotency_key_reused"


def test_two_processes_never_both_generate(server, anonymous_server, key, history):
    """Twenty requests with one key, half of them to each; and again with other keys."""
    urls = [server.url + CHAT, anonymous_server.url + CHAT]
    before = len(history.read().completions)
    rounds, begin = 5, threading.Barrier(20)

    def ask(index, word):
        begin.wait()
        return httpx.post(urls[index % 2], json=ASKED, headers=keyed(key, word), timeout=TIMEOUT)

    with ThreadPoolExecutor(20) as pool:
        for number in range(rounds):
            answers = [*pool.map(ask, range(20), [f"two-{number}"] * 20)]
            assert {answer.status_code for answer in answers} <= {200, 409}
            assert len({answer.text for answer in answers if answer.status_code == 200}) == 1
    assert len(history.read().completions) == before + rounds


def test_after_a_kill_in_mid_stream_the_key_is_free_again(new_server):
    server = new_server(**SLOW_ECHO)
    server.start()
    server.wait_ready()
    key, history = server.new_key(), History(server.var_dir, server.database_url)
    body = chat(100, "word " * 100, stream=True)
    headers = keyed(key, "killed")
    with httpx.stream(
        "POST", server.url + CHAT, json=body, headers=headers, timeout=TIMEOUT
    ) as response:
        cut = Stream(response)
        cut.read(5)
        server.kill()
    server.start()
    server.wait_ready()
    assert history.completion(cut.id).status == "interrupted"
    streams = []
    for _ in range(2):
        with httpx.stream(
            "POST", server.url + CHAT, json=body, headers=headers, timeout=TIMEOUT
        ) as response:
            stream = Stream(response)
            stream.read()
            assert stream.is_done
            streams.append(stream)
    first, again = streams
    assert first.id != cut.id
    assert (again.id, again.text) == (first.id, first.text)
    assert [row.status for row in history.read().completions] == ["interrupted", "completed"]
