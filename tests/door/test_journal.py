"""A database that goes away while an answer is made: the client gets its answer, and the row does
when the database is back."""

import asyncio
import json
import threading

import pytest
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from accounts.limits.holders import holders_of
from accounts.limits.limiter import limiter
from accounts.models import ApiKey, User
from conversations.models import Completion, Message
from conversations.processes import journal as journals
from conversations.processes.journal import folder, journal
from llmapi import completions, endings, replayer, reservations
from llmapi.executors import database
from tests.door.client import Client
from tests.door.test_history import first_texts, row_after_the_end, rows
from tests.door.test_idempotency import KEYED, assert_replayed, generated
from tests.engine.tiny import RECITAL

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"model": "random", "messages": HELLO, "temperature": 0, "max_tokens": 900}
SHORT = {"messages": HELLO, "temperature": 0, "max_tokens": 5}


class Database:
    """As far as ends of requests go, which it takes or not."""

    is_away = False

    def wrapped(self, finish):
        def finish_or_fail(*args):
            if self.is_away:
                raise OperationalError("gone")
            finish(*args)

        return finish_or_fail


@pytest.fixture
def lost(monkeypatch, settings, tmp_path):
    """`lost.is_away = True`: from then on no request's end is taken."""
    settings.VAR_DIR = tmp_path
    lost = Database()
    for module in (reservations, journals):
        monkeypatch.setattr(module, "completion_finish", lost.wrapped(module.completion_finish))
    monkeypatch.setattr(endings, "FINISH_RETRIES_S", (0.01, 0.01))
    monkeypatch.setattr(replayer, "EVERY_S", 0.05)
    return lost


def lines():
    """What is in the journal."""
    if not folder().exists():
        return []
    return [
        json.loads(line) for path in folder().iterdir() for line in path.read_text().splitlines()
    ]


async def until_replayed():
    for _ in range(500):
        if not journal.is_pending:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the journal is not replayed")


async def test_a_stream_whose_database_goes_away_ends_as_if_it_had_not(client, lost):
    events = []
    async with client.stream(CHAT, {**LONG, "max_tokens": 100}) as call:
        await call.start()
        async for event in call.events():
            events.append(event)
            lost.is_away = lost.is_away or len(events) == 3
            if event == "[DONE]":
                (line,) = lines()  # then it is on the disk
    assert events.pop() == "[DONE]"
    assert not any("error" in event for event in events)
    public_id = events[0]["id"]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert line["completion"] == public_id
    assert [choice["text"] for choice in line["end"]["choices"]] == [text]
    assert (await Completion.objects.aget()).status == "running"
    lost.is_away = False
    await until_replayed()
    row = await row_after_the_end()
    assert (row.status, row.finish_reason, row.completion_tokens) == ("completed", "length", 100)
    assert (await Message.objects.aget(completion=row)).content == text
    assert lines() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, SHORT),
        (COMPLETIONS, {"prompt": "Hello", "n": 2, "max_tokens": 5}),
        (EMBEDDINGS, {"input": ["one", "two"]}),
    ],
)
async def test_a_whole_answer_comes_too(client, lost, path, body):
    lost.is_away = True
    answer = await client.post(path, body)
    assert answer.status == 200
    lost.is_away = False
    await until_replayed()
    row = await Completion.objects.select_related("content").aget()
    assert row.status == "completed"
    assert row.prompt_tokens == answer.json()["usage"]["prompt_tokens"]
    if path == COMPLETIONS:
        texts = [choice["text"] for choice in answer.json()["choices"]]
        assert [choice["text"] for choice in row.content.output] == texts


async def test_a_database_that_stumbles_is_asked_again_and_nothing_is_written_elsewhere(
    client, lost, monkeypatch
):
    failures = iter([OperationalError("once"), OperationalError("twice")])
    finish = reservations.completion_finish

    def stumble(*args):
        for error in failures:
            raise error
        finish(*args)

    monkeypatch.setattr(reservations, "completion_finish", stumble)
    assert (await client.post(CHAT, SHORT)).status == 200
    assert (await Completion.objects.aget()).status == "completed"
    assert not folder().exists()


async def test_while_ends_wait_nothing_is_accepted_or_generated_and_the_server_is_not_ready(
    client, lost, backends, monkeypatch
):
    assert (await Client().get("/ready")).status == 200
    lost.is_away = True
    assert (await client.post(CHAT, SHORT)).status == 200
    sent = []
    for backend in backends:
        monkeypatch.setattr(backend.link, "send", sent.append)
    for _ in range(2):  # before a try to replay and after one
        answer = await client.post(CHAT, LONG)
        assert (answer.status, answer.error["code"]) == (503, "database_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        ready = await Client().get("/ready")
        assert ready.status == 503
        assert "database" in ready.json()["reason"]
        assert (await Client().get("/health")).status == 200
        await asyncio.sleep(0.1)
    assert sent == []
    assert await generated() == 1
    lost.is_away = False
    await until_replayed()
    monkeypatch.undo()
    assert (await Client().get("/ready")).status == 200
    assert (await client.post(CHAT, SHORT)).status == 200
    assert len(await rows(status="completed")) == 2


async def test_what_a_request_held_of_its_limits_is_settled_at_once(client, user, lost):
    limiter.open(None)
    await User.objects.aupdate(concurrent_requests=1, tokens_per_minute=100_000)
    lost.is_away = True
    usage = (await client.post(CHAT, SHORT)).json()["usage"]
    holders = holders_of(await User.objects.aget(), await ApiKey.objects.aget())
    (tally,) = limiter.look(holders).tallies
    assert (tally.running, tally.tokens) == (0, usage["total_tokens"])
    lost.is_away = False
    await until_replayed()
    (tally,) = limiter.look(holders).tallies
    assert (tally.running, tally.tokens) == (0, usage["total_tokens"])
    limiter.close()


async def test_a_database_that_is_silent_keeps_no_client_waiting(client, lost, monkeypatch):
    """Nor the slot that its request held. The try that hangs comes through in the end; it is the
    same end."""
    limiter.open(None)
    await User.objects.aupdate(concurrent_requests=1)
    monkeypatch.setattr(endings, "DATABASE_HAS_S", 0.2)
    asked, go_on = threading.Event(), threading.Event()
    finish = reservations.completion_finish

    def hang(*args):
        asked.set()
        go_on.wait()
        finish(*args)

    monkeypatch.setattr(reservations, "completion_finish", hang)
    try:
        answer = await client.post(CHAT, SHORT)
        assert asked.is_set()
        assert answer.status == 200
        assert [line["completion"] for line in lines()] == [answer.json()["id"]]
        holders = holders_of(await User.objects.aget(), await ApiKey.objects.aget())
        assert limiter.look(holders).tallies[0].running == 0
        await until_replayed()
        before = await Completion.objects.values().aget()
        assert before["status"] == "completed"
    finally:
        go_on.set()
    limiter.close()
    await asyncio.to_thread(database.close)
    assert await Completion.objects.values().aget() == before
    assert await Message.objects.acount() == 2


async def test_a_client_that_leaves_while_the_database_is_away_is_kept_as_cancelled(client, lost):
    async with client.stream(CHAT, LONG) as call:
        public_id, text = await first_texts(call, 3)
        lost.is_away = True
    assert (await Completion.objects.aget()).status == "running"
    lost.is_away = False
    await until_replayed()
    row = await row_after_the_end(public_id)
    assert row.status == "cancelled"
    assert (await Message.objects.aget(completion=row)).content.startswith(text)


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_commit_that_nobody_heard_of_is_refused_and_leaves_nothing_running(
    client, settings, tmp_path, monkeypatch, is_done
):
    """The database goes away in the commit by which a request is accepted: nobody knows whether it
    was done."""
    settings.VAR_DIR = tmp_path
    monkeypatch.setattr(replayer, "EVERY_S", 0.05)
    start, commit = completions.completion_start, BaseDatabaseWrapper._commit

    def go_away(connection):
        if is_done:
            commit(connection)
        raise OperationalError("gone")

    def start_in_vain(new):
        with monkeypatch.context() as broken:
            broken.setattr(BaseDatabaseWrapper, "_commit", go_away)
            return start(new)

    with monkeypatch.context() as away:
        away.setattr(completions, "completion_start", start_in_vain)
        answer = await client.post(CHAT, SHORT, **KEYED)
    assert (answer.status, answer.error["code"]) == (503, "database_unavailable")
    await until_replayed()
    assert [row.status for row in await rows()] == ["failed"] * is_done
    assert lines() == []
    again = await client.post(CHAT, SHORT, **KEYED)
    assert again.status == 200, "its idempotency key is free"
    assert "idempotent-replayed" not in again.headers


@pytest.mark.parametrize("streamed", [False, True])
async def test_if_the_journal_cannot_be_written_either_the_client_is_told(
    client, lost, tmp_path, streamed
):
    (tmp_path / "journal").write_text("in the way")
    lost.is_away = True
    call = await client.begin(CHAT, {**SHORT, "stream": streamed})
    if streamed:
        assert (await call.start()).status == 200
        *_, error, done = [event async for event in call.events()]
        assert done == "[DONE]"
        assert error["error"]["code"] == "database_unavailable"
        await call.disconnect()
    else:
        answer = await call.answer()
        assert (answer.status, answer.error["code"]) == (503, "database_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    lost.is_away = False
    await until_replayed()
    assert (await row_after_the_end()).status == "completed"


async def test_an_answer_for_an_idempotency_key_survives_too(client, lost):
    body = {**LONG, "max_tokens": 50}
    lost.is_away = True
    first = await client.post(CHAT, body, **KEYED)
    lost.is_away = False
    await until_replayed()
    again = await client.post(CHAT, body, **KEYED)
    assert_replayed(again)
    assert again.body == first.body
    assert await generated() == 1


async def test_no_word_that_may_not_be_kept_is_in_the_journal(client, lost, settings):
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"unstored_text": "discard"})
    lost.is_away = True
    answer = (await client.post(CHAT, {"messages": HELLO, "temperature": 0, "store": False})).json()
    assert answer["choices"][0]["message"]["content"] == RECITAL
    (line,) = lines()
    assert [choice["text"] for choice in line["end"]["choices"]] == [""]
    assert RECITAL[:2] not in json.dumps(line, ensure_ascii=False)
    lost.is_away = False
    await until_replayed()
    row = await Completion.objects.aget()
    assert (row.status, row.finish_reason) == ("completed", "stop")
    assert row.completion_tokens == answer["usage"]["completion_tokens"]


async def test_many_ends_at_once_are_all_written_and_replayed(client, lost, monkeypatch):
    """Of requests that were all accepted before the first of them ended."""
    monkeypatch.setattr(replayer.replayer, "check_done", lambda: None)
    lost.is_away = True
    answers = await asyncio.gather(*(client.post(CHAT, SHORT) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    ids = {answer.json()["id"] for answer in answers}
    assert {line["completion"] for line in lines()} == ids
    lost.is_away = False
    await until_replayed()
    assert {row.public_id for row in await rows(status="completed")} == ids
