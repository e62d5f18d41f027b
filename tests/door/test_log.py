"""One line in the log for each request, when it is over."""

import asyncio
import io
import json
import logging
import os
import re
import socket

import pytest
from django.db import DataError

from accounts.logs import JsonFormatter
from accounts.models import ApiKey
from llmapi import completions
from tests.door.client import Client
from tests.door.test_faults import ready_within
from tests.door.test_history import CHAT, COMPLETIONS, EMBEDDINGS, LONG, first_texts
from tests.engine.tiny import RECITAL

SAID = "What nobody else may read"
HELLO = {"messages": [{"role": "user", "content": SAID}], "model": "reciter"}


@pytest.fixture
def lines(caplog):
    """lines(count): what is logged of requests that have ended, once there are so many."""
    caplog.set_level(logging.INFO, "llmapi.finished")

    async def get(count):
        for _ in range(500):
            records = [r for r in caplog.records if r.name == "llmapi.finished"]
            found = [f"{r.request_id} {r.getMessage()}" for r in records]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(caplog.text)

    return get


@pytest.fixture
def objects():
    """What LLMAPI_LOG_FORMAT=json writes, from DEBUG up: `await objects(count)` waits for the lines
    of so many requests and gives all."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    root, ours = logging.getLogger(), logging.getLogger("llmapi")
    level = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)

    async def get(count=1):
        for _ in range(500):
            found = [json.loads(line) for line in handler.stream.getvalue().splitlines()]
            if len([line for line in found if "outcome" in line]) >= count:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(found)

    yield get
    root.removeHandler(handler)
    ours.setLevel(level)


async def asker():
    key = await ApiKey.objects.aget()
    return f"user {key.user_id}, key {key.pk}"


async def test_a_line_says_who_asked_how_it_ended_and_how_much_it_was(client, lines):
    answer = await client.post(CHAT, HELLO)
    events = await client.events(CHAT, {**HELLO, "stream_options": {"include_usage": True}})
    embedded = await client.post(EMBEDDINGS, {"input": SAID})
    who = await asker()
    whole, streamed, embedding = await lines(3)
    usage = answer.json()["usage"]
    tokens = f"{usage['prompt_tokens']}\\+{usage['completion_tokens']} tokens"
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch(rf"{request_id} POST {CHAT} 200 completed, \d+ ms, {tokens}, {who}", whole)
    assert events[-2]["usage"]["completion_tokens"] == usage["completion_tokens"]
    assert re.fullmatch(rf"req_\w+ POST {CHAT} 200 completed, \d+ ms, {tokens}, {who}", streamed), (
        "at the end, for the tokens are known"
    )
    tokens = f"{embedded.json()['usage']['prompt_tokens']}\\+0 tokens"
    assert re.fullmatch(
        rf"req_\w+ POST {EMBEDDINGS} 200 completed, \d+ ms, {tokens}, {who}", embedding
    )
    for line in (whole, streamed, embedding):
        assert SAID not in line
        assert RECITAL[:10] not in line
        assert client.key not in line


async def test_what_ended_early_says_how(client, backends, lines):
    async with client.stream(CHAT, LONG) as call:
        await first_texts(call, 3)
        assert await lines(0) == [], "not before the end"
    (left,) = await lines(1)
    assert re.search(r" 200 cancelled, \d+ ms, \d+\+\d+ tokens, user", left)
    async with client.stream(CHAT, LONG) as call:
        await first_texts(call, 3)
        with socket.socket(fileno=os.dup(backends[1].link._connection.fileno())) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)
        assert [event async for event in call.events()][-1] == "[DONE]"
    _, lost = await lines(2)
    assert re.search(r" 200 interrupted, \d+ ms, \d+\+\d+ tokens, user", lost)
    await ready_within(30)


async def test_what_is_refused_is_a_line_too(client, lines, settings):
    await client.post(CHAT, {**HELLO, "temperature": 3})
    await Client().post(COMPLETIONS, {"prompt": SAID})
    settings.LLMAPI = settings.LLMAPI.model_copy(
        update={"max_body_bytes": 20, "allow_anonymous": True}
    )
    await client.post(CHAT, HELLO)
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"max_body_bytes": 2000})
    await Client().post(COMPLETIONS, {"prompt": []})
    who = await asker()
    wrong, stranger, large, anonymous = await lines(4)
    assert re.fullmatch(rf"req_\w+ POST {CHAT} 400 refused, \d+ ms, {who}", wrong)
    assert re.fullmatch(rf"req_\w+ POST {COMPLETIONS} 401 refused, \d+ ms", stranger)
    assert re.fullmatch(rf"req_\w+ POST {CHAT} 413 refused, \d+ ms", large)
    assert re.fullmatch(rf"req_\w+ POST {COMPLETIONS} 400 refused, .*, no key", anonymous)


# ---- as objects ---------------------------------------------------------------------------------


async def test_the_last_line_of_a_request_has_its_facts_as_fields(client, user, objects):
    answer = await client.post(CHAT, HELLO)
    (line,) = [line for line in await objects() if line["logger"] == "llmapi.finished"]
    usage = answer.json()["usage"]
    assert line.pop("duration_ms") >= line.pop("first_token_ms") > 0
    assert line.pop("time")
    assert line.pop("message")
    assert line == {
        "level": "INFO",
        "logger": "llmapi.finished",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "outcome": "completed",
        "completion_id": answer.json()["id"],
        "model": "reciter",
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "user_id": user.pk,
        "api_key_id": (await ApiKey.objects.aget()).pk,
    }


async def test_djangos_side_has_them_too(client, objects):
    answer = await client.get("/v1/models/reciter")
    (line,) = await objects()
    assert line["route"] == "/v1/models/<path:model>"
    assert line["path"] == "/v1/models/reciter"
    assert (line["method"], line["status"], line["outcome"]) == ("GET", 200, "completed")
    assert line["request_id"] == answer.headers["x-request-id"]


async def test_what_is_logged_while_a_request_is_worked_on_names_it(client, objects, monkeypatch):
    """Also on a thread: of several at once, each line names its own."""

    def fail(new):
        raise DataError(f"invalid input: {SAID}")

    monkeypatch.setattr(completions, "completion_start", fail)
    answers = await asyncio.gather(*(client.post(CHAT, HELLO) for _ in range(5)))
    ids = {answer.headers["x-request-id"] for answer in answers}
    lines = await objects(5)
    failed = [line for line in lines if "traceback" in line]
    assert {line["request_id"] for line in failed} == ids
    assert len(failed) == 5
    refused = [line for line in lines if line["level"] == "WARNING"]
    assert {line["request_id"] for line in refused} == ids
    assert SAID not in json.dumps(lines)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_what_a_client_calls_its_request_stands_beside_our_id(client, objects):
    headers = {"x-request-id": "web-1.a:b/c=+", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    posted = await client.post(CHAT, {**HELLO, "max_tokens": 1}, headers=headers)
    got = await client.get("/v1/models", headers=headers)
    lines = [line for line in await objects(2) if "outcome" in line]
    assert [line["client_request_id"] for line in lines] == ["web-1.a:b/c=+"] * 2
    assert [line["trace_id"] for line in lines] == [TRACE] * 2
    for answer, line in zip((posted, got), lines, strict=True):
        assert answer.headers["x-request-id"] == line["request_id"]
        assert answer.headers["x-request-id"].startswith("req_"), "never theirs"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-request-id": ""},
        {"x-request-id": "a" * 65},
        {"x-request-id": SAID},
        {"x-request-id": "é"},
        {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"},
        {"traceparent": TRACE},
    ],
)
async def test_what_is_not_of_the_form_is_ignored(client, objects, headers):
    await client.get("/v1/models", headers=headers)
    (line,) = await objects()
    assert "client_request_id" not in line
    assert "trace_id" not in line


async def test_a_key_in_the_wrong_place_is_cut_out(client, objects):
    await client.get(f"/v1/models/{client.key}", headers={"x-request-id": client.key})
    await client.post(CHAT, {**HELLO, "model": client.key})
    await client.get(f"/v1/models?api_key={client.key}")
    assert client.key[11:] not in json.dumps(await objects(3))
