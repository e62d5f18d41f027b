"""/health and /ready: of this process and its database, whatever all others wait for."""

import asyncio
import threading

import pytest
from django.db import OperationalError

from llmapi import readiness
from llmapi.running import running
from tests.door.client import Client

PROBES = ("/health", "/ready")


@pytest.fixture
def silent(monkeypatch):
    """A database that says nothing until the event is set."""
    speaks, is_asked = threading.Event(), threading.Event()
    asked = []

    def ask():
        asked.append(1)
        is_asked.set()
        assert speaks.wait(60)

    monkeypatch.setattr(readiness, "ask_database", ask)
    speaks.asked, speaks.is_asked = asked, is_asked
    yield speaks
    speaks.set()


async def test_a_database_that_is_silent_is_told_of_and_keeps_nobody_waiting(
    served, silent, monkeypatch
):
    monkeypatch.setattr(readiness, "DATABASE_HAS_S", 0.1)
    for _ in range(3):
        answer = await Client().get("/ready")
        assert (answer.status, answer.json()["status"]) == (503, "unavailable")
        assert answer.json()["reason"] == "The database does not answer."
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert (await Client().get("/health")).status == 200
    assert len(silent.asked) == 1, "who asks again hears of the same silence"
    silent.set()
    for _ in range(500):
        if (await Client().get("/ready")).status == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it is not ready again")


async def test_however_many_ask_the_database_is_asked_once(served, silent):
    asking = [asyncio.ensure_future(Client().get("/ready")) for _ in range(50)]
    assert await asyncio.to_thread(silent.is_asked.wait, 30)
    await asyncio.sleep(0.1)  # so that all of them have come
    silent.set()
    assert {(await one).status for one in asking} == {200}
    assert len(silent.asked) == 1


async def test_a_database_that_fails_is_told_of(served, monkeypatch):
    def gone():
        raise OperationalError("password of postgres is secret")

    monkeypatch.setattr(readiness, "ask_database", gone)
    answer = await Client().get("/ready")
    assert answer.status == 503
    assert answer.json() == {"status": "unavailable", "reason": "The database does not answer."}
    assert (await Client().request("HEAD", "/ready")).status == 503


async def test_a_server_that_drains_asks_no_database(served, silent):
    running.draining = True
    answer = await Client().get("/ready")
    assert (answer.status, answer.json()["reason"]) == (503, "The server is shutting down.")
    assert not silent.asked


@pytest.mark.parametrize("path", PROBES)
async def test_their_answers_are_those_of_the_views(served, path):
    """HEAD, which is Django's, has the same headers."""
    quick = await Client().get(path)
    slow = await Client().request("HEAD", path)
    assert quick.status == slow.status == 200
    own = {"x-request-id", "openai-processing-ms", "content-length", "vary", "allow"}
    assert {name: value for name, value in quick.headers.items() if name not in own} == {
        name: value
        for name, value in slow.headers.items()
        if name not in {*own, "cross-origin-opener-policy"}
    }
    assert int(quick.headers["content-length"]) == len(quick.body)
    assert quick.headers["x-request-id"] != (await Client().get(path)).headers["x-request-id"]
    assert (await Client().post(path, {})).status == 405
