"""One line in the log for each request, when it is over."""

import asyncio
import logging
import os
import re
import socket

import pytest

from accounts.models import ApiKey
from tests.door.client import Client
from tests.door.test_faults import ready_within
from tests.door.test_history import CHAT, COMPLETIONS, EMBEDDINGS, LONG, first_texts
from tests.engine.tiny import RECITAL

SAID = "What nobody else may read"
HELLO = {"messages": [{"role": "user", "content": SAID}], "model": "reciter"}


@pytest.fixture
def lines(caplog):
    """lines(count): what the door has logged at INFO, once there are so many."""
    caplog.set_level(logging.INFO, "llmapi.consumers")

    async def get(count):
        for _ in range(500):
            records = [r for r in caplog.records if r.name == "llmapi.consumers"]
            found = [r.getMessage() for r in records if r.levelno == logging.INFO]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(caplog.text)

    return get


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
