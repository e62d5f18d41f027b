"""So many of Django's views at once and no more: others wait, or are told to come again."""

import asyncio
import time

import pytest
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from llmapi.places import Seated
from llmapi.routing import application as door_before
from tests.door import client as door
from tests.door.client import Client, call

USAGE = "/v1/usage?start_time=1772323200"


class Stuck:
    """Stands in for Django: views that begin their answer at `begins`, and end it at `ends`."""

    def __init__(self) -> None:
        self.begins, self.ends = asyncio.Event(), asyncio.Event()
        self.at_work = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["path"] == "/v1/usage":
            self.at_work += 1
            await self.begins.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/v1/usage":
            await self.ends.wait()
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def stuck(monkeypatch):
    """One place, and one in the line."""
    stuck = Stuck()
    monkeypatch.setattr(door, "application", door_before(Seated(stuck, 1, waiting=1)))
    return stuck


async def asked(count: int = 1) -> list[door.Call]:
    calls = [call("GET", USAGE) for _ in range(count)]
    for under_way in calls:
        await under_way.send_body(b"")
    await asyncio.sleep(0.01)
    return calls


async def test_many_reads_at_once_take_few_connections(client, monkeypatch) -> None:
    opened: set[int] = set()
    most = 0
    close = BaseDatabaseWrapper.close

    def count(connection, **kwargs) -> None:
        nonlocal most
        opened.add(id(connection))
        most = max(most, len(opened))
        time.sleep(0.05)  # of the thread that has it, so that others meet it

    def closed(self) -> None:
        opened.discard(id(self))
        close(self)

    monkeypatch.setattr(BaseDatabaseWrapper, "close", closed)
    connection_created.connect(count)
    try:
        answers = await asyncio.gather(*(client.get(USAGE) for _ in range(60)))
    finally:
        connection_created.disconnect(count)
    assert [answer.status for answer in answers] == [200] * 60
    assert 1 < most <= settings.LLMAPI.max_views
    assert not opened


async def test_when_the_line_is_full_one_is_told_to_come_again(stuck) -> None:
    first, second = await asked(2)
    answer = await Client().get(USAGE)
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert answer.headers["x-request-id"].startswith("req_")
    in_chinese = {"accept": "text/html", "accept-language": "zh-CN"}
    page = await Client().get("/history/?q=%ff", headers=in_chinese)
    assert (page.status, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert "服务器正忙" in page.body.decode()
    assert "content-security-policy" in page.headers
    for probe in ("/health", "/ready", "/metrics"):
        assert (await Client().get(probe)).status == 200
    stuck.begins.set()
    stuck.ends.set()
    assert [(await one.answer()).status for one in (first, second)] == [200, 200]


async def test_who_waits_too_long_is_told_to_come_again(stuck, monkeypatch) -> None:
    monkeypatch.setattr("llmapi.places.LONGEST_WAIT_S", 0.05)
    first, second = await asked(2)
    assert (await second.answer()).status == 503
    assert stuck.at_work == 1
    stuck.begins.set()
    stuck.ends.set()
    assert (await first.answer()).status == 200


async def test_a_place_is_free_once_the_answer_begins_or_the_request_is_gone(stuck) -> None:
    [left] = await asked()
    left.task.cancel()
    await asyncio.wait([left.task])
    [slow] = await asked()
    stuck.begins.set()
    assert (await slow.start()).status == 200
    [other] = await asked()
    assert (await other.start()).status == 200  # while the slow one is still under way
    stuck.ends.set()
