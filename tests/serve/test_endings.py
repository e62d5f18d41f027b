"""How servers and engines end, and what becomes of the requests that they are working on."""

import os
import signal
import threading
import time

import httpx
import pytest

from tests.serve.asking import CHAT, bearer, chat, post, streaming
from tests.serve.history import History
from tests.serve.server import group_members, until

ENDLESS = chat(16000)
"""Takes the tiny model far longer than any of these tests."""

NOISE_S = 3.0
"""What a busy machine may add to the seconds that are promised."""


@pytest.fixture(scope="module")
def all_servers(module_servers):
    """One server for each test that ends it, started together."""
    servers = {
        "draining": module_servers(),
        "impatient": module_servers(LLMAPI_SHUTDOWN_TIMEOUT_S="0.3"),
        "hurried": module_servers(),
        "watchful": module_servers(LLMAPI_ENGINE_TIMEOUT_S="3"),
    }
    for server in servers.values():
        server.start()
    for server in servers.values():
        server.wait_ready()
    return servers


@pytest.fixture
def ending(all_servers):
    """ending(name) -> that server, a key of it, its history."""

    def get(name):
        server = all_servers[name]
        return server, server.new_key(), History(server.var_dir, server.database_url)

    return get


def test_on_sigterm_a_running_stream_finishes_and_the_exit_code_is_0(ending):
    server, key, history = ending("draining")
    with httpx.Client(base_url=server.url, timeout=30) as earlier:
        assert earlier.get("/ready").status_code == 200
        with streaming(server.url, key, chat(3000)) as stream:
            server.signal(signal.SIGTERM)
            until(lambda: earlier.get("/ready").status_code == 503, "/ready says 503")
            assert server.ready_status() == 503, "on a new connection too"
            assert earlier.get("/health").status_code == 200
            refused = earlier.post(CHAT, json=chat(2), headers=bearer(key))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert server.running.poll() is None
            stream.read()
    assert stream.is_done
    assert stream.error is None
    assert server.wait_exit() == 0
    row = history.completion(stream.id)
    assert (row.status, row.texts) == ("completed", (stream.text,))
    assert row.completion_tokens == 3000
    assert len(history.read().completions) == 1, "what was refused left no row"


def test_what_outlasts_the_shutdown_ends_with_an_error_and_is_kept_as_interrupted(ending):
    server, key, history = ending("impatient")
    whole_answers = []
    waiting = threading.Thread(
        target=lambda: whole_answers.append(post(server.url, key, CHAT, ENDLESS))
    )
    waiting.start()
    until(lambda: history.read().completions, "the request that is not streamed is accepted")
    with streaming(server.url, key, ENDLESS) as stream:
        server.signal(signal.SIGTERM)
        stream.read()
    waiting.join(30)
    assert server.wait_exit() == 0
    assert stream.error["message"] == "The server was shut down."
    (whole,) = whole_answers
    assert whole.status_code == 503
    assert whole.json()["error"]["message"] == "The server was shut down."
    other, row = history.read().completions
    assert row.public_id == stream.id
    assert (row.status, other.status) == ("interrupted", "interrupted")
    (text,) = row.texts
    assert text.startswith(stream.text), "everything that was sent is kept"
    assert 0 < row.completion_tokens < 16000


def test_ctrl_c_drains_and_a_second_one_hurries(ending):
    server, key, history = ending("hurried")
    with (
        httpx.Client(base_url=server.url, timeout=30) as earlier,
        streaming(server.url, key, ENDLESS) as stream,
    ):
        assert earlier.get("/ready").status_code == 200
        # To the whole group, as a terminal does: the engine must not take it for its own.
        os.killpg(server.pid, signal.SIGINT)
        until(lambda: earlier.get("/ready").status_code == 503, "the first signal is heard")
        stream.read(50)
        assert stream.error is None, "after one signal a running stream goes on"
        os.killpg(server.pid, signal.SIGINT)
        stream.read()
    assert stream.error["message"] == "The server was shut down."
    assert server.wait_exit() == 0
    row = history.completion(stream.id)
    assert row.status == "interrupted"
    assert row.texts[0].startswith(stream.text)


def test_an_engine_killed_in_mid_stream_is_an_error_event_and_is_started_again(
    anonymous_server, key, history
):
    server = anonymous_server  # as good as new afterwards
    web, engine = server.pid, server.engine_pid
    assert engine is not None
    with streaming(server.url, key, ENDLESS) as stream:
        stream.read(20)
        killed_at = time.monotonic()
        os.kill(engine, signal.SIGKILL)
        stream.read()
        assert time.monotonic() - killed_at < 2 + NOISE_S
    assert stream.error["code"] == "engine_lost"
    assert server.ready_status() == 503
    assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
    refused = post(server.url, key, CHAT, chat(2))
    assert refused.status_code == 503
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    until(lambda: server.ready_status() == 200, "it is ready again", 60)
    assert (server.pid, server.running.poll()) == (web, None), "the web process never went away"
    assert server.engine_pid not in (None, engine)
    assert post(server.url, key, CHAT, chat(2)).status_code == 200
    row = history.completion(stream.id)
    assert row.status == "interrupted"
    assert row.texts[0].startswith(stream.text)
    assert "engine" in row.error


def test_an_engine_that_stops_and_does_not_die_is_killed_and_started_again(ending):
    server, key, history = ending("watchful")
    engine = server.engine_pid
    with streaming(server.url, key, ENDLESS) as stream:
        os.kill(engine, signal.SIGSTOP)
        stream.read()
    assert stream.error["code"] == "engine_lost"
    row = history.completion(stream.id)
    assert (row.status, row.texts[0]) == ("interrupted", stream.text)
    until(lambda: server.ready_status() == 200, "it is ready again", 60)
    assert server.engine_pid not in (None, engine)
    assert engine not in group_members(server.pid)
    assert post(server.url, key, CHAT, chat(2)).status_code == 200
    assert server.stop() == 0
