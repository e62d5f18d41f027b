"""Idempotency keys: a request that is sent twice is answered once, and each time the same."""

import asyncio
import logging
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts.models import ApiKey
from accounts.services import key_create
from conversations.idempotency import keys_prune
from conversations.models import Completion, IdempotencyKey
from conversations.retention.erasing import user_erase
from conversations.retention.pruning import Limits, prune
from llmapi import outcomes
from llmapi.executors import database
from llmapi.services import models
from tests.door.client import Client
from tests.door.test_history import first_texts, row_after_the_end, rows, until_rows
from tests.door.test_keeping import MARK, everything_stored, policy  # noqa: F401

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
KEYED = {"headers": {"idempotency-key": "one"}}
HELLO = [{"role": "user", "content": "Hello"}]
DRAWN = {"model": "random", "temperature": 1.5, "max_tokens": 12}
"""Never the same twice, unless it is not generated twice."""
LONG = {"model": "random", "messages": HELLO, "temperature": 0, "max_tokens": 900}


async def events_of(client, path, body):
    call = await client.begin(path, {**body, "stream": True}, **KEYED)
    answer = await call.start()
    events = [event async for event in call.events()]
    await call.disconnect()
    assert events.pop() == "[DONE]"
    return answer, events


def told(events):
    """What a stream says, however it is cut into chunks."""
    choices = {}
    for event in events:
        for choice in event["choices"]:
            said = choices.setdefault(choice["index"], {"text": "", "logprobs": [], "ends": []})
            delta = choice.get("delta", {})
            said["role"] = said.get("role") or delta.get("role")
            said["text"] += choice.get("text") or delta.get("content") or ""
            logprobs = choice["logprobs"] or {}
            said["logprobs"] += logprobs.get("content") or logprobs.get("token_logprobs") or []
            if choice["finish_reason"]:
                said["ends"].append((choice["finish_reason"], event.get("conversation")))
    heads = {(e["id"], e["object"], e["created"], e["model"]) for e in events}
    return choices, heads, [event["usage"] for event in events if event.get("usage")]


async def generated():
    return await Completion.objects.acount()


def assert_replayed(answer):
    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")


# ---- the same answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, "n": 2, "logprobs": True, "top_logprobs": 2}),
        (CHAT, {"messages": HELLO, "metadata": {"run": "7"}}),
        (CHAT, {"messages": [{"role": "user", "message": "The seed's"}], "n": 2}),
        (COMPLETIONS, {"prompt": ["Hello", "Bye"], "n": 2}),
        (COMPLETIONS, {"prompt": "Hello", "echo": True, "logprobs": 2}),
    ],
)
async def test_a_request_sent_again_gets_the_answer_of_the_first(client, path, body):
    body = {**DRAWN, **body}
    first = await client.post(path, body, **KEYED)
    again = await client.post(path, body, **KEYED)
    assert first.status == 200
    assert "idempotent-replayed" not in first.headers
    assert_replayed(again)
    assert again.body == first.body
    assert again.headers.get("x-conversation-id") == first.headers.get("x-conversation-id")
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert await generated() == 1


@pytest.mark.parametrize("sent", [{}, {"encoding_format": "base64"}, {"dimensions": 8}])
async def test_embeddings_are_sent_again(client, sent):
    body = {"input": ["one", "two"], **sent}
    first = await client.post(EMBEDDINGS, body, **KEYED)
    again = await client.post(EMBEDDINGS, body, **KEYED)
    assert_replayed(again)
    assert again.body == first.body
    assert await generated() == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, "n": 2, "logprobs": True}),
        (CHAT, {"messages": HELLO, "stream_options": {"include_usage": True}}),
        (CHAT, {"messages": [{"role": "user", "message": "The seed's"}], "n": 2}),
        (COMPLETIONS, {"prompt": ["Hello", "Bye"], "echo": True, "logprobs": 0}),
        (COMPLETIONS, {"prompt": "Hello", "stream_options": {"include_usage": True}}),
    ],
)
async def test_a_stream_is_told_again_as_a_stream(client, path, body):
    body = {**DRAWN, **body}
    first, events = await events_of(client, path, body)
    again, retold = await events_of(client, path, body)
    assert_replayed(again)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert told(retold) == told(events)
    # Each chunk has the keys that it had, and the last ones say the same.
    assert {*map(frozenset, retold)} == {*map(frozenset, events)}
    assert retold[-1] == events[-1]
    assert await generated() == 1


async def test_what_a_request_says_makes_it_the_same_not_how_its_json_is_written(client):
    first = await client.post(
        COMPLETIONS, b'{"model": "random", "prompt": "Hello", "max_tokens": 3}', **KEYED
    )
    again = await client.post(
        COMPLETIONS, b'{ "max_tokens":3,"prompt":"Hello", "model":"random"}', **KEYED
    )
    assert_replayed(again)
    assert again.body == first.body


async def test_all_keys_of_a_user_may_send_it_again_and_no_other_user(client, other_client, user):
    body = {"messages": HELLO, **DRAWN}
    first = await client.post(CHAT, body, **KEYED)
    _, key = await sync_to_async(key_create)(user=user)
    again = await Client(key).post(CHAT, body, **KEYED)
    assert_replayed(again)
    assert again.body == first.body
    others = await other_client.post(CHAT, body, **KEYED)
    assert others.status == 200
    assert "idempotent-replayed" not in others.headers
    assert others.json()["id"] != first.json()["id"]


async def test_a_key_that_may_not_use_the_model_is_not_told_its_answer(client, user):
    body = {"messages": HELLO, "max_tokens": 3}
    assert (await client.post(CHAT, body, **KEYED)).status == 200
    _, key = await sync_to_async(key_create)(user=user, allowed_models=["random"])
    answer = await Client(key).post(CHAT, body, **KEYED)
    assert (answer.status, answer.error["param"]) == (403, "model")


async def test_one_of_fifty_at_once_is_generated_and_the_others_get_its_answer_or_a_409(client):
    body = {"messages": HELLO, **DRAWN, "max_tokens": 200}
    answers = await asyncio.gather(*(client.post(CHAT, body, **KEYED) for _ in range(50)))
    assert await generated() == 1
    assert {answer.status for answer in answers} <= {200, 409}
    assert len({answer.body for answer in answers if answer.status == 200}) == 1
    for answer in answers:
        if answer.status == 409:
            assert answer.error["code"] == "idempotency_key_in_use"
    assert await IdempotencyKey.objects.acount() == 1


# ---- what a key stands for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO, **DRAWN, "max_tokens": 13}),
        (CHAT, {"messages": HELLO, **DRAWN, "stream": True}),
        (COMPLETIONS, {"prompt": "Hello", **DRAWN}),
    ],
)
async def test_another_request_with_the_same_key_is_refused_for_good(client, path, body):
    assert (await client.post(CHAT, {"messages": HELLO, **DRAWN}, **KEYED)).status == 200
    answer = await client.post(path, body, **KEYED)
    assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    assert answer.error["param"] == "Idempotency-Key"
    assert answer.headers["x-should-retry"] == "false"
    assert await generated() == 1


async def test_while_it_is_answered_it_is_refused_for_a_moment(client):
    call = await client.begin(CHAT, LONG, **KEYED)
    await until_rows(1)
    answer = await client.post(CHAT, LONG, **KEYED)
    assert (answer.status, answer.error["code"]) == (409, "idempotency_key_in_use")
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert "x-should-retry" not in answer.headers
    other = await client.post(CHAT, {**LONG, "max_tokens": 3}, **KEYED)
    assert other.status == 422
    first = await call.answer()
    again = await client.post(CHAT, LONG, **KEYED)
    assert_replayed(again)
    assert again.body == first.body


async def test_a_client_that_left_may_ask_anew(client):
    call = await client.begin(CHAT, {**LONG, "stream": True}, **KEYED)
    public_id, _ = await first_texts(call, 3)
    await call.disconnect()
    assert (await row_after_the_end(public_id)).status == "cancelled"
    _, events = await events_of(client, CHAT, LONG)
    assert events[0]["id"] != public_id
    assert [row.status for row in await rows()] == ["cancelled", "completed"]
    again, _ = await events_of(client, CHAT, LONG)
    assert_replayed(again)


async def test_what_failed_may_be_asked_anew_also_something_else(client, monkeypatch):
    async def fail(prepared):
        raise ValueError("broken")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(models, "stream", fail)
        assert (await client.post(CHAT, LONG, **KEYED)).status == 500
    other = {**LONG, "max_tokens": 3}
    first = await client.post(CHAT, other, **KEYED)
    assert first.status == 200
    assert "idempotent-replayed" not in first.headers
    assert_replayed(await client.post(CHAT, other, **KEYED))
    assert (await client.post(CHAT, LONG, **KEYED)).status == 422


async def test_what_a_dead_process_was_answering_may_be_asked_anew_once_it_is_swept(client):
    first = await client.post(CHAT, {**LONG, "max_tokens": 3}, **KEYED)
    await Completion.objects.aupdate(status="running", process=None)
    assert (await client.post(CHAT, {**LONG, "max_tokens": 3}, **KEYED)).status == 409
    await Completion.objects.aupdate(status="interrupted")
    again = await client.post(CHAT, {**LONG, "max_tokens": 3}, **KEYED)
    assert again.status == 200
    assert again.json()["id"] != first.json()["id"]


async def test_what_is_refused_before_it_is_accepted_does_not_use_the_key_up(
    client, settings, monkeypatch
):
    body = {"messages": HELLO, "max_tokens": 3}
    assert (await client.post(CHAT, {**body, "n": -1}, **KEYED)).status == 400
    await ApiKey.objects.aupdate(requests_per_minute=0)
    assert (await client.post(CHAT, body, **KEYED)).status == 429
    await ApiKey.objects.aupdate(requests_per_minute=None)
    monkeypatch.setattr(models, "_backends", [])
    assert (await client.post(CHAT, body, **KEYED)).status == 503
    monkeypatch.undo()
    assert await IdempotencyKey.objects.acount() == 0
    assert (await client.post(CHAT, {**body, "max_tokens": 4}, **KEYED)).status == 200


async def test_after_some_hours_a_key_is_free_and_then_forgotten(client, settings):
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"idempotency_hours": 2})
    body = {"messages": HELLO, **DRAWN}
    first = await client.post(CHAT, body, **KEYED)
    await IdempotencyKey.objects.aupdate(created_at=timezone.now() - timedelta(minutes=119))
    assert await database.run(keys_prune) == 0
    assert_replayed(await client.post(CHAT, body, **KEYED))
    await IdempotencyKey.objects.aupdate(created_at=timezone.now() - timedelta(minutes=121))
    again = await client.post(CHAT, body, **KEYED)
    assert again.json()["id"] != first.json()["id"]
    assert_replayed(await client.post(CHAT, body, **KEYED))
    await IdempotencyKey.objects.aupdate(created_at=timezone.now() - timedelta(minutes=121))
    assert await database.run(keys_prune) == 1
    assert await IdempotencyKey.objects.acount() == 0
    assert await generated() == 2


async def test_a_key_of_a_request_that_runs_is_not_forgotten(client):
    await client.post(CHAT, LONG | {"max_tokens": 2}, **KEYED)
    await Completion.objects.aupdate(status="running")
    await IdempotencyKey.objects.aupdate(created_at=timezone.now() - timedelta(days=9))
    assert await database.run(keys_prune) == 0
    answer = await client.post(CHAT, LONG | {"max_tokens": 2}, **KEYED)
    assert answer.status == 409
    assert int(answer.headers["retry-after"]) <= 120


# ---- what it costs, and who may ------------------------------------------------------------------


async def test_an_answer_sent_again_costs_nothing_and_comes_when_the_limit_is_reached(
    client, caplog
):
    caplog.set_level(logging.INFO, "llmapi.consumers")
    await ApiKey.objects.aupdate(requests_per_minute=2)
    body = {"messages": HELLO, **DRAWN}
    first = await client.post(CHAT, body, **KEYED)
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    again = await client.post(CHAT, body, **KEYED)
    assert again.headers["x-ratelimit-remaining-requests"] == "1"
    assert (await client.post(CHAT, body)).status == 200
    assert (await client.post(CHAT, body)).status == 429
    again = await client.post(CHAT, body, **KEYED)
    assert_replayed(again)
    assert again.headers["x-ratelimit-remaining-requests"] == "0"
    public_id = first.json()["id"]
    lines = [record.getMessage() for record in caplog.records]
    assert sum(" 200 replayed, " in line and public_id in line for line in lines) == 2


async def test_an_answer_is_sent_again_while_no_engine_is_there(client, backends, monkeypatch):
    body = {"messages": HELLO, **DRAWN}
    first = await client.post(CHAT, body, **KEYED)
    monkeypatch.setattr(backends[1], "_lost", "The engine process ended unexpectedly.")
    assert (await client.post(CHAT, body)).status == 503
    assert (await client.post(CHAT, body, **KEYED)).body == first.body


@pytest.mark.parametrize("key", ["a" * 255, "!~", "550e8400-e29b-41d4-a716-446655440000", '"q"'])
async def test_keys_of_visible_ascii_are_taken(client, key):
    body = {"messages": HELLO, "max_tokens": 1}
    for replayed in (None, "true"):
        answer = await client.post(CHAT, body, headers={"idempotency-key": key})
        assert answer.status == 200
        assert answer.headers.get("idempotent-replayed") == replayed


@pytest.mark.parametrize("key", ["", "a" * 256, "a b", "ключ", "a\tb", "\x7f"])
async def test_other_keys_are_refused(client, key):
    answer = await client.post(
        CHAT, {"messages": HELLO, "max_tokens": 1}, headers={"idempotency-key": key}
    )
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")
    assert answer.error["message"].startswith("'Idempotency-Key' must be")
    assert await generated() == 0


async def test_two_keys_are_refused(client):
    call = await client.begin(CHAT, b"{}", **KEYED)
    call.scope["headers"].append((b"idempotency-key", b"two"))
    answer = await call.answer()
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


async def test_requests_without_an_api_key_have_none(served, settings):
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"allow_anonymous": True})
    body = {"messages": HELLO, "max_tokens": 1}
    answer = await Client().post(CHAT, body, **KEYED)
    assert (answer.status, answer.error["param"]) == (403, "Idempotency-Key")
    assert (await Client().post(CHAT, body)).status == 200
    assert await generated() == 1


# ---- what is kept of it --------------------------------------------------------------------------


async def assert_not_kept(client, path, body):
    """Its answer is gone, and it is not generated anew by itself."""
    count = await generated()
    answer = await client.post(path, body, **KEYED)
    assert (answer.status, answer.error["code"]) == (409, "idempotent_answer_not_kept")
    assert answer.headers["x-should-retry"] == "false"
    assert await generated() == count


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_discarded_answer_is_not_kept_for_its_key_either(
    client,
    policy,  # noqa: F811
    streamed,
):
    policy(unstored_text="discard")
    body = {"messages": [{"role": "user", "content": MARK}], "store": False, "logprobs": True}
    answer = await client.post(CHAT, {**body, "stream": streamed}, **KEYED)
    assert answer.status == 200
    kept = await database.run(everything_stored)
    assert MARK not in kept
    assert '"logprob"' not in kept
    await assert_not_kept(client, CHAT, {**body, "stream": streamed})


async def answered_with_mark(client):
    """A completion that says MARK; its body."""
    body = {"prompt": MARK, "echo": True, "max_tokens": 2}
    answer = await client.post(COMPLETIONS, body, **KEYED)
    assert MARK in answer.json()["choices"][0]["text"]
    assert MARK in (await IdempotencyKey.objects.aget()).answer
    return body


async def test_no_text_is_left_after_the_user_is_erased(client, user):
    body = await answered_with_mark(client)
    await database.run(user_erase, user.pk)
    assert MARK not in await database.run(everything_stored)
    await assert_not_kept(client, COMPLETIONS, body)


async def test_no_text_is_left_after_it_was_pruned(client):
    body = await answered_with_mark(client)
    await Completion.objects.aupdate(created_at=timezone.now() - timedelta(days=2))
    await database.run(prune, Limits(timezone.now() - timedelta(days=1), None))
    assert MARK not in await database.run(everything_stored)
    await assert_not_kept(client, COMPLETIONS, body)


@pytest.mark.parametrize("what", ["chat", "conversation"])
async def test_no_text_is_left_after_a_chat_is_deleted(client, what):
    body = {"messages": HELLO, **DRAWN}
    chat = (await client.post(CHAT, body, **KEYED)).json()
    path = f"{CHAT}/{chat['id']}"
    if what == "conversation":
        path = f"/v1/conversations/{chat['conversation']['id']}"
    assert (await client.request("DELETE", path)).status == 200
    assert (await IdempotencyKey.objects.aget()).answer == ""
    await assert_not_kept(client, CHAT, body)


async def test_a_request_that_is_erased_while_it_runs_leaves_no_answer(client, user):
    call = await client.begin(CHAT, LONG, **KEYED)
    await until_rows(1)
    await database.run(user_erase, user.pk)
    assert (await call.answer()).status == 200
    assert (await IdempotencyKey.objects.aget()).answer == ""
    await assert_not_kept(client, CHAT, LONG)


async def test_requests_are_deleted_with_their_keys(client):
    await client.post(CHAT, {"messages": HELLO, "max_tokens": 1}, **KEYED)
    await Completion.objects.aupdate(created_at=timezone.now() - timedelta(days=40))
    await database.run(prune, Limits(timezone.now(), timezone.now() - timedelta(days=39)))
    assert await generated() == 0
    assert await IdempotencyKey.objects.acount() == 0


async def test_neither_key_nor_request_can_be_read_from_what_is_stored(client):
    body = {"prompt": MARK, "max_tokens": 1}
    key = "a-key-that-says-who-i-am"
    await client.post(COMPLETIONS, body, headers={"idempotency-key": key})
    kept = await database.run(everything_stored)
    assert key not in kept
    row = await IdempotencyKey.objects.aget()
    assert len(row.digest) == len(row.fingerprint) == 64


@pytest.mark.parametrize(("name", "most"), [("LONGEST_KEPT", 200), ("MOST_KEPT_LOGPROBS", 5)])
async def test_an_answer_that_is_too_long_is_sent_once(client, monkeypatch, name, most):
    monkeypatch.setattr(outcomes, name, most)
    body = {"messages": HELLO, **DRAWN, "logprobs": True, "top_logprobs": 1}
    answer, events = await events_of(client, CHAT, body)
    assert answer.status == 200
    choices, _, _ = told(events)
    assert len(choices[0]["logprobs"]) > 5
    await assert_not_kept(client, CHAT, {**body, "stream": True})
