"""The engine dies, the server drains or is full: clear errors, honest rows, and then it goes on."""

import asyncio
import os
import socket
import time
from dataclasses import replace

from django.db import OperationalError

from accounts.authentication import ApiKeyAuthentication
from conversations.models import Completion
from llmapi.backends.link import launch_thread
from llmapi.backends.local import LocalBackend
from llmapi.engine.config import EngineConfig
from llmapi.engine.runner import Runner
from llmapi.running import running
from tests.door.client import Client
from tests.door.test_history import first_texts, row_after_the_end

CHAT = "/v1/chat/completions"
LONG = {
    "model": "random",
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 900,
}


async def ready_within(seconds):
    deadline = time.monotonic() + seconds
    while (await Client().get("/ready")).status != 200:
        assert time.monotonic() < deadline, "not ready again"
        await asyncio.sleep(0.05)


async def test_an_engine_that_dies_fails_its_requests_and_is_started_again(client, backends):
    engine = backends[1]
    async with client.stream(CHAT, LONG) as call:
        public_id, _ = await first_texts(call, 3)
        with socket.socket(fileno=os.dup(engine.link._connection.fileno())) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)
        rest = [event async for event in call.events()]
    assert rest[-1] == "[DONE]"
    assert rest[-2]["error"]["code"] == "engine_lost"
    row = await row_after_the_end(public_id)
    assert row.status == "interrupted"
    assert "engine" in row.error
    await ready_within(30)
    assert (await client.post(CHAT, {**LONG, "max_tokens": 2})).status == 200


async def test_while_no_engine_is_there_requests_are_a_503_that_says_when_to_come_back(
    client, backends, monkeypatch
):
    monkeypatch.setattr(backends[1], "_lost", "The engine process ended unexpectedly.")
    answer = await client.post(CHAT, LONG)
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    ready = await Client().get("/ready")
    assert ready.status == 503
    assert "started again" in ready.json()["reason"]
    # the other model goes on
    assert (await client.post(CHAT, {**LONG, "model": "reciter", "max_tokens": 2})).status == 200
    assert await Completion.objects.acount() == 1


async def test_draining_lets_streams_finish_and_refuses_new_requests(client):
    async with client.stream(CHAT, {**LONG, "max_tokens": 300}) as call:
        await call.start()
        draining = asyncio.ensure_future(running.drain(timeout_s=30))
        await asyncio.sleep(0)
        assert (await Client().get("/ready")).status == 503
        answer = await client.post(CHAT, LONG)
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        events = [event async for event in call.events()]
        await draining
    assert events[-1] == "[DONE]"
    assert (await row_after_the_end()).status == "completed"


async def test_what_outlasts_the_drain_ends_with_an_error_event_and_is_interrupted(client):
    async with client.stream(CHAT, LONG) as call:
        public_id, _ = await first_texts(call, 3)
        await running.drain(timeout_s=0.05)
        rest = [event async for event in call.events()]
    assert rest[-1] == "[DONE]"
    assert rest[-2]["error"]["message"] == "The server was shut down."
    row = await row_after_the_end(public_id)
    assert row.status == "interrupted"
    assert row.completion_tokens >= 3


async def test_one_requests_failure_is_its_own(client, backends, monkeypatch):
    """A request that the engine refuses ends alone; its neighbour goes on."""
    prepare = LocalBackend.prepare

    def out_of_vocabulary(self, request, request_id, user):
        prepared = prepare(self, request, request_id, user)
        return replace(prepared, work=replace(prepared.work, prompts=((10**6,),)))

    async with client.stream(CHAT, {**LONG, "max_tokens": 200}) as neighbour:
        await neighbour.start()
        monkeypatch.setattr(LocalBackend, "prepare", out_of_vocabulary)
        answer = await client.post(CHAT, LONG)
        events = [event async for event in neighbour.events()]
    assert (answer.status, answer.error["code"]) == (500, "generation_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert events[-1] == "[DONE]"
    assert [row.status async for row in Completion.objects.order_by("id")] == [
        "completed",
        "failed",
    ]


async def test_a_forward_pass_that_fails_ends_its_batch_with_a_clear_error_and_the_engine_goes_on(
    client, backends, monkeypatch
):
    handle = backends[1].link.handle
    async with client.stream(CHAT, LONG) as one, client.stream(CHAT, LONG) as two:
        ids = [(await first_texts(call, 3))[0] for call in (one, two)]
        with monkeypatch.context() as broken:
            broken.setattr(Runner, "forward", on_fire)
            ends = [[event async for event in call.events()][-2:] for call in (one, two)]
    for public_id, (error, done) in zip(ids, ends, strict=True):
        assert (error["error"]["code"], done) == ("generation_failed", "[DONE]")
        assert "try again" in error["error"]["message"]
        row = await row_after_the_end(public_id)
        assert row.status == "failed"
        assert row.completion_tokens >= 3
        assert row.error == error["error"]["message"]
    assert (await Client().get("/ready")).status == 200
    assert (await client.post(CHAT, {**LONG, "max_tokens": 2})).status == 200
    assert backends[1].link.handle is handle, "no engine was started"


def on_fire(*args):
    raise RuntimeError("the device is on fire")


def test_an_engine_that_cannot_be_started_is_tried_again(tmp_path, reciter_directory):
    """No memory for a process, say: the server waits, and is ready when there is."""
    attempts = []

    def launch(theirs, config):
        attempts.append(theirs)
        if len(attempts) == 1:
            raise OSError(12, "Cannot allocate memory")
        return launch_thread(theirs, config)

    config = EngineConfig(base_model=str(reciter_directory), cache_dir=str(tmp_path), threads=1)
    backend = LocalBackend(config, launch=launch)
    backend.start(lambda line: None)
    try:
        backend.wait_ready(60)
    finally:
        backend.stop()
    assert len(attempts) == 2


async def test_while_the_database_is_away_every_route_is_a_503(client, monkeypatch):
    def away(self, parsed):
        raise OperationalError("gone")

    monkeypatch.setattr(ApiKeyAuthentication, "find_key", away)
    for answer in (await client.post(CHAT, LONG), await client.get("/v1/models")):
        assert (answer.status, answer.error["code"]) == (503, "database_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert "gone" not in answer.error["message"]
