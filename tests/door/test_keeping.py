"""What is kept of a request: labels, whether it is listed, and whether a word of it is written."""

import pytest
from django.apps import apps
from django.db import connection

from conversations.models import Completion, Conversation, Message
from conversations.processes.sweeping import processes_sweep
from llmapi.executors import database
from llmapi.flusher import flusher
from tests.door.client import Client
from tests.door.test_history import LONG, first_texts, row_after_the_end
from tests.engine.tiny import RECITAL

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MARK = "xyzzy-marker"


@pytest.fixture
def policy(settings):
    """policy(store_by_default=..., unstored_text=...)"""

    def policy(**values):
        settings.LLMAPI = settings.LLMAPI.model_copy(update=values)

    return policy


def everything_stored():
    """All columns of all rows of our tables, as one text."""
    with connection.cursor() as cursor:
        found = []
        for model in apps.get_models(include_auto_created=True):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(model._meta.db_table)}")
            found.append(repr(cursor.fetchall()))
    return "\n".join(found)


async def listed(client):
    body = (await client.get(f"{CHAT}?status=any")).json()
    return [one["id"] for one in body["data"]]


async def test_metadata_are_kept_and_said_back(client):
    labels = {"run": "1", "用户": "北京 😀", "a.b[c]'\"\\": "", "__len__": "x" * 512}
    said = await client.chat(metadata=labels, max_tokens=2)
    assert said["metadata"] == labels
    assert (await Completion.objects.aget()).metadata == labels
    assert "metadata" not in await client.chat(max_tokens=2)


async def test_what_is_not_stored_is_not_shown_and_is_kept_for_review(client):
    said = await client.chat(MARK, store=False)
    assert "conversation" not in said
    row = await Completion.objects.aget()
    assert (row.public_id, row.is_stored, row.status) == (said["id"], False, "completed")
    assert await Message.objects.acount() == 2
    assert await listed(client) == []
    assert (await client.get("/v1/conversations")).json()["data"] == []
    hidden = (await Conversation.objects.aget()).public_id
    for path in (f"{CHAT}/{said['id']}", f"{CHAT}/{said['id']}/messages"):
        assert (await client.get(path)).error["code"] == "not_found"
    assert (await client.get(f"/v1/conversations/{hidden}")).status == 404
    body = {"messages": [{"role": "user", "content": "Hi"}], "conversation": hidden}
    assert (await client.post(CHAT, body)).status == 404


async def test_the_operator_decides_what_is_stored_if_the_request_does_not_say(client, policy):
    policy(store_by_default=False)
    await client.chat(max_tokens=2)
    said = await client.chat(max_tokens=2, store=True)
    assert await listed(client) == [said["id"]]
    # To go on with a conversation is to say so.
    more = await client.chat(max_tokens=2, conversation=said["conversation"])
    assert await listed(client) == [said["id"], more["id"]]


@pytest.mark.parametrize("streamed", [False, True])
async def test_discarded_text_is_never_written(client, policy, streamed):
    policy(unstored_text="discard")
    body = {
        "messages": [{"role": "user", "content": f"{MARK} in a question"}],
        "temperature": 0,
        "stop": [f"{MARK} stop"],
        "user": f"{MARK} user",
        "metadata": {"label": f"{MARK} label"},
        "store": False,
    }
    if streamed:
        events = await client.events(CHAT, body)
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    else:
        answer = (await client.post(CHAT, body)).json()
        text = answer["choices"][0]["message"]["content"]
        assert answer["metadata"] == body["metadata"]
    assert text == RECITAL, "the client gets its answer all the same"
    row = await Completion.objects.select_related("content").aget()
    assert (row.status, row.finish_reason, row.head_id) == ("completed", "stop", None)
    assert row.completion_tokens > 0
    assert row.content.parameters["temperature"] == 0
    assert await Message.objects.acount() == await Conversation.objects.acount() == 0
    kept = await database.run(everything_stored)
    assert MARK not in kept
    assert RECITAL[:5] not in kept


async def test_discarded_text_is_not_flushed_nor_kept_when_the_client_leaves(client, policy):
    policy(unstored_text="discard")
    async with client.stream(CHAT, {**LONG, "store": False}) as call:
        public_id, text = await first_texts(call, 3)
        await flusher.flush()
        row = await Completion.objects.select_related("content").aget(public_id=public_id)
        assert (row.status, row.content.output) == ("running", [])
        assert row.completion_tokens > 0
    row = await row_after_the_end(public_id)
    assert (row.status, row.content.output) == ("cancelled", [])
    assert await Message.objects.acount() == 0
    assert text not in await database.run(everything_stored)


async def test_discarded_text_is_not_found_by_a_sweep(client, policy):
    policy(unstored_text="discard")
    await client.chat(MARK, store=False, max_tokens=2)
    await Completion.objects.aupdate(status="running", process=None)
    await database.run(processes_sweep)
    assert MARK not in await database.run(everything_stored)


async def test_where_nothing_is_stored_prompts_are_discarded_too(client, policy):
    policy(store_by_default=False, unstored_text="discard")
    answer = await client.post(COMPLETIONS, {"prompt": MARK, "temperature": 0})
    assert answer.status == 200
    await client.post("/v1/embeddings", {"input": MARK})
    assert await Completion.objects.acount() == 2
    kept = await database.run(everything_stored)
    assert MARK not in kept
    assert RECITAL[:5] not in kept


async def test_keyless_requests_have_no_history(served, user, settings):
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"allow_anonymous": True})
    keyless = Client()
    said = await keyless.chat(max_tokens=2, metadata={"a": "b"})
    assert "conversation" not in said
    hidden = (await Conversation.objects.aget()).public_id
    for method, path in (
        ("GET", CHAT),
        ("GET", f"{CHAT}/{said['id']}"),
        ("DELETE", f"{CHAT}/{said['id']}"),
        ("GET", f"{CHAT}/{said['id']}/messages"),
        ("GET", "/v1/conversations"),
        ("GET", f"/v1/conversations/{hidden}"),
        ("GET", f"/v1/conversations/{hidden}/items"),
    ):
        answer = await keyless.request(method, path)
        assert (answer.status, answer.error["code"]) == (403, "permission_denied"), path
    assert (await keyless.post("/v1/conversations", {})).status == 403
    body = {"messages": [{"role": "user", "content": "Hi"}], "conversation": hidden}
    answer = await keyless.post(CHAT, body)
    assert (answer.status, answer.error["param"]) == (403, "conversation")
