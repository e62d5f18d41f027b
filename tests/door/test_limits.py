"""What the limits of users and keys let through the door, and what they say when they do not."""

import asyncio
from datetime import datetime, timedelta

import pytest
import redis as redis_client
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.utils import timezone

from accounts.limits.holders import holders_of
from accounts.limits.limiter import limiter
from accounts.limits.shared import SharedStore
from accounts.models import ApiKey
from accounts.services import key_create, key_revoke
from conversations.models import Completion
from llmapi import completions
from llmapi.backends.echo import EchoBackend
from llmapi.running import running
from llmapi.services import models
from tests.door.client import Client
from tests.door.conftest import close_connections

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SLOW_S = 0.005
"""Before each word of the echo."""


def hello(words=1, max_tokens=100, **parameters):
    """A chat that is answered with so many words, at `SLOW_S` each: as many tokens twice."""
    text = "word " * (words - 1) + "word"
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": max_tokens, **parameters}


@pytest.fixture
def echo(transactional_db):
    running.reset()
    limiter.open(None)
    models.start([EchoBackend(delay_s=SLOW_S)], lambda line: None, {"gpt-4": "echo"})
    yield models
    models.stop()
    close_connections()
    limiter.close()


@pytest.fixture
def with_redis(echo, redis_server):
    limiter.open(SharedStore(redis_server.url))
    return redis_server


@pytest.fixture(params=["memory", "redis"])
def counted(request, echo):
    """Either way of counting."""
    if request.param == "redis":
        request.getfixturevalue("with_redis")


def limit(row, **limits):
    for name, value in limits.items():
        setattr(row, name, value)
    row.save()


@pytest.fixture
def new_client(user):
    """new_client(requests_per_minute=..., ...): a further key of alice's, with these limits."""

    def make(**limits):
        key, text = key_create(user=user)
        limit(key, **limits)
        client = Client(text)
        client.api_key = key
        return client

    return make


async def left(key) -> dict:
    """What is counted for a key and its owner: {"user": Tally, "key": Tally}."""
    fresh = await ApiKey.objects.select_related("user").aget(pk=key.pk)
    holders = holders_of(fresh.user, fresh)
    tallies = (await sync_to_async(limiter.look)(holders)).tallies
    return {holder.kind: tally for holder, tally in zip(holders, tallies, strict=True)}


async def statuses(calls):
    return sorted([answer.status for answer in await asyncio.gather(*calls)])


async def ended(count):
    """Wait until so many rows have ended; sums their tokens."""
    for _ in range(500):
        rows = [row async for row in Completion.objects.exclude(status="running")]
        if len(rows) >= count:
            return sum(row.prompt_tokens + row.completion_tokens for row in rows)
        await asyncio.sleep(0.02)
    raise AssertionError("some rows are still running")


async def test_of_50_requests_at_once_exactly_10_pass_a_limit_of_10_per_minute(counted, new_client):
    client = await sync_to_async(new_client)(requests_per_minute=10)
    found = await statuses(client.post(CHAT, hello()) for _ in range(50))
    assert found == [200] * 10 + [429] * 40
    assert await Completion.objects.acount() == 10
    assert (await left(client.api_key))["key"].requests == 10


async def test_refusal_says_which_limit_and_when_to_come_again(echo, new_client):
    client = await sync_to_async(new_client)(requests_per_minute=2, tokens_per_minute=1000)
    first = await client.post(CHAT, hello())
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    assert first.headers["x-ratelimit-remaining-tokens"] == "899", "1 + 100 are reserved"
    async with client.stream(CHAT, hello()) as call:
        streamed = await call.start()
        assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
        assert [event async for event in call.events()][-1] == "[DONE]"
    refused = await client.post(CHAT, hello())
    assert refused.status == 429
    assert refused.error["type"] == "requests"
    assert refused.error["code"] == "rate_limit_exceeded"
    assert "this API key on requests per minute: limit 2, used 2" in refused.error["message"]
    assert refused.headers["x-llmapi-limit"] == "requests_per_minute; whose=key; limit=2; used=2"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "996", "2 and 2 were used"
    wrong = await client.post(CHAT, hello(temperature=3))
    assert (wrong.status, wrong.headers["x-ratelimit-remaining-requests"]) == (400, "0")


async def test_without_limits_there_are_no_headers_and_nothing_is_counted(with_redis, new_client):
    client = await sync_to_async(new_client)()
    answer = await client.post(CHAT, hello())
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    with redis_client.Redis.from_url(with_redis.url) as client_of_redis:
        assert client_of_redis.dbsize() == 0


async def test_limits_of_a_user_hold_for_all_of_its_keys_together(counted, user, new_client):
    await sync_to_async(limit)(user, requests_per_minute=6)
    clients = [await sync_to_async(new_client)() for _ in range(3)]
    calls = [client.post(CHAT, hello()) for client in clients for _ in range(4)]
    assert await statuses(calls) == [200] * 6 + [429] * 6
    refused = await clients[0].post(CHAT, hello())
    assert "this account on requests per minute" in refused.error["message"]
    assert "whose=account; limit=6; used=6" in refused.headers["x-llmapi-limit"]


async def test_defaults_of_the_server_hold_for_users_without_limits_and_for_anonymous(
    echo, user, new_client, settings
):
    settings.LLMAPI = settings.LLMAPI.model_copy(
        update={"default_requests_per_minute": 2, "allow_anonymous": True}
    )
    for client in (await sync_to_async(new_client)(), Client()):
        found = await statuses(client.post(CHAT, hello()) for _ in range(5))
        assert found == [200] * 2 + [429] * 3
    await sync_to_async(limit)(user, requests_per_minute=3)
    client = await sync_to_async(new_client)()
    found = await statuses(client.post(CHAT, hello()) for _ in range(3))
    assert found == [200] + [429] * 2, "its own limit, and what was counted under the other"


async def test_requests_at_once(counted, new_client):
    client = await sync_to_async(new_client)(concurrent_requests=2)
    async with client.stream(CHAT, hello(400)) as one, client.stream(CHAT, hello(400)) as two:
        for call in (one, two):
            assert (await call.start()).status == 200
        refused = await client.post(CHAT, hello())
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "requests at once" in refused.error["message"]
        told = "concurrent_requests; whose=key; limit=2; used=2"
        assert refused.headers["x-llmapi-limit"] == told
    await ended(2)  # both clients left
    assert (await client.post(CHAT, hello())).status == 200


async def test_tokens_are_reserved_before_and_settled_after(counted, new_client):
    client = await sync_to_async(new_client)(tokens_per_minute=1000)
    async with client.stream(CHAT, hello(100, max_tokens=800)) as call:
        await call.start()
        refused = await client.post(CHAT, hello(1, max_tokens=100))
        assert (refused.status, refused.error["type"]) == (429, "tokens")
        assert "limit 1000, used 900, requested 101" in refused.error["message"]
        told = "tokens_per_minute; whose=key; limit=1000; used=900; asked=101"
        assert refused.headers["x-llmapi-limit"] == told
        assert refused.headers["x-ratelimit-remaining-tokens"] == "100"
        _ = [event async for event in call.events()]
    assert (await left(client.api_key))["key"].tokens == await ended(1) == 200
    assert (await client.post(CHAT, hello(1, max_tokens=799))).status == 200


async def test_request_that_can_never_pass_says_so_and_is_not_to_be_sent_again(echo, new_client):
    client = await sync_to_async(new_client)(tokens_per_minute=1000)
    refused = await client.post(CHAT, hello(1, max_tokens=1000))
    assert (refused.status, refused.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in refused.headers
    assert "Request too large for this API key" in refused.error["message"]
    many = {"prompt": ["a", "b"], "n": 5, "max_tokens": 100}
    assert (await client.post(COMPLETIONS, many)).status == 429, "2 + 2 * 5 * 100"
    assert (await client.post(COMPLETIONS, many | {"n": 4})).status == 200
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "token_budget"):
        nothing = await sync_to_async(new_client)(**{name: 0})
        refused = await nothing.post(EMBEDDINGS, {"input": "a"})
        assert (refused.status, refused.headers["x-should-retry"]) == (429, "false"), name


async def test_embeddings_count_their_prompt_tokens(counted, new_client):
    client = await sync_to_async(new_client)(tokens_per_minute=10)
    assert (await client.post(EMBEDDINGS, {"input": ["a b c", "d e f"]})).status == 200
    assert (await left(client.api_key))["key"].tokens == 6
    assert (await client.post(EMBEDDINGS, {"input": "a b c d e"})).status == 429
    assert (await client.post(EMBEDDINGS, {"input": "a b c d"})).status == 200


async def test_budget_counts_what_the_database_has_of_this_month_and_what_runs(
    counted, user, new_client
):
    client = await sync_to_async(new_client)(token_budget=300)
    start = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    def used(tokens, key, **changes):
        values = {"status": "completed", "created_at": start, "model": "echo", "kind": "chat"}
        values |= {"public_id": f"chatcmpl-{Completion.objects.count()}", "user": user}
        Completion.objects.create(api_key=key, prompt_tokens=tokens, **(values | changes))

    other = (await sync_to_async(new_client)()).api_key
    await sync_to_async(used)(100, client.api_key)
    await sync_to_async(used)(1000, client.api_key, created_at=start - timedelta(seconds=1))
    await sync_to_async(used)(1000, other)
    async with client.stream(CHAT, hello(100, max_tokens=100)) as call:
        await call.start()
        refused = await client.post(CHAT, hello(1, max_tokens=10))
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert "200 tokens are left, 200 of them reserved" in refused.error["message"]
        told = "token_budget; whose=key; limit=300; used=100; asked=11; reserved=200; until="
        assert refused.headers["x-llmapi-limit"].startswith(told)
        ends = datetime.fromtimestamp(
            int(refused.headers["x-llmapi-limit"].rpartition("=")[2]), start.tzinfo
        )
        assert (ends.day, ends.hour, (ends - start).days in (28, 29, 30, 31)) == (1, 0, True)
        assert 1 <= int(refused.headers["retry-after"]) <= 120
    spent = 100 + await ended(4) - 2100
    tally = (await left(client.api_key))["key"]
    assert (tally.used, tally.reserved) == (spent, 0)
    refused = await client.post(CHAT, hello(1, max_tokens=300 - spent))
    assert refused.status == 429
    assert (refused.error["code"], refused.error["type"]) == ("insufficient_quota",) * 2
    assert refused.headers["x-should-retry"] == "false"
    assert f"budget 300, used {spent}" in refused.error["message"]
    assert f"ask for {300 - spent} tokens at most" in refused.error["message"]
    assert (await client.post(CHAT, hello(1, max_tokens=299 - spent))).status == 200


async def test_budget_is_read_once_and_then_counted(counted, new_client, monkeypatch):
    client = await sync_to_async(new_client)(token_budget=100_000)
    readings = []
    read = completions.reserve.__globals__["tokens_used"]
    monkeypatch.setitem(
        completions.reserve.__globals__,
        "tokens_used",
        lambda *args: readings.append(args) or read(*args),
    )
    for _ in range(5):
        assert (await client.post(CHAT, hello())).status == 200
    assert len(readings) == 1
    assert (await left(client.api_key))["key"].used == 10


async def test_budget_is_the_same_after_a_restart(echo, new_client):
    client = await sync_to_async(new_client)(token_budget=300, concurrent_requests=5)
    assert (await client.post(CHAT, hello(100))).status == 200
    limiter.open(None)
    refused = await client.post(CHAT, hello(1, max_tokens=100))
    assert "budget 300, used 200, requested 101" in refused.error["message"]
    assert (await client.post(CHAT, hello(1, max_tokens=99))).status == 200


async def test_nothing_leaks_however_requests_end(counted, user, new_client, monkeypatch):
    """Finished, streamed, refused for limits and for what they say, failed in the engine, failed in
    the database, left in mid-answer, left during admission."""
    await sync_to_async(limit)(user, concurrent_requests=20, tokens_per_minute=10**6)
    client = await sync_to_async(new_client)(
        concurrent_requests=12, requests_per_minute=10**6, token_budget=10**6
    )
    start, stream, calls = completions.completion_start, EchoBackend.stream, iter(range(10**6))

    def sometimes_fails(new):
        if next(calls) % 5 == 0:
            raise OperationalError("the disk is full")
        return start(new)

    async def breaks(self, prepared):
        async for events in stream(self, prepared):
            yield events
            if prepared.prompt_tokens == 7:
                raise RuntimeError("broken on purpose")
            if prepared.prompt_tokens == 400:
                await asyncio.Event().wait()  # until the client has left

    monkeypatch.setattr(completions, "completion_start", sometimes_fails)
    monkeypatch.setattr(EchoBackend, "stream", breaks)

    async def leave_during_admission():
        call = await client.begin(CHAT, hello(50))
        await asyncio.sleep(0.005)
        await call.disconnect()

    async def leave_a_stream():
        async with client.stream(CHAT, hello(400)) as call:
            await call.start()

    kinds = [
        lambda: client.post(CHAT, hello(3)),
        lambda: client.events(CHAT, hello(3)),
        lambda: client.post(CHAT, hello(7)),
        lambda: client.post(CHAT, hello(3, temperature=3)),
        lambda: client.post(EMBEDDINGS, {"input": "a b c"}),
        leave_during_admission,
    ]
    for _ in range(5):
        await asyncio.gather(*(leave_a_stream() for _ in range(4)))
        batch = [kind() for kind in kinds for _ in range(6)]
        await asyncio.gather(*batch, return_exceptions=True)  # events() expects a 200
    monkeypatch.undo()
    for _ in range(500):
        if not (running._requests or running._writes):
            break
        await asyncio.sleep(0.02)
    rows = [row async for row in Completion.objects.all()]
    assert {row.status for row in rows} == {"completed", "failed", "cancelled"}
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    tallies = await left(client.api_key)
    assert (tallies["user"].running, tallies["key"].running) == (0, 0)
    assert (tallies["key"].used, tallies["key"].reserved) == (tokens, 0)
    assert tallies["user"].tokens == tokens
    assert tallies["key"].requests == len(rows)


async def test_redis_that_goes_away_and_comes_back_fails_no_request(with_redis, new_client, caplog):
    client = await sync_to_async(new_client)(requests_per_minute=4, token_budget=10_000)
    async with client.stream(CHAT, hello(50)) as call:
        await call.start()
        with_redis.stop()
        found = await statuses(client.post(CHAT, hello()) for _ in range(6))
        assert found == [200] * 4 + [429] * 2, "this process's own counts"
        _ = [event async for event in call.events()]
    assert caplog.text.count("does not answer; until it does") == 1
    with_redis.start()
    limiter._ask_from = 0.0  # what a wait of two seconds does
    assert (await client.post(CHAT, hello())).status == 200
    assert caplog.text.count("Redis answers again") == 1
    assert (await left(client.api_key))["key"].used == await ended(6)


async def test_budget_used_while_redis_was_away_is_used(with_redis, new_client):
    """Redis itself has forgotten nothing: only the way to it was cut."""
    client = await sync_to_async(new_client)(token_budget=1000)
    assert (await client.post(CHAT, hello(10))).status == 200
    limiter._is_away, limiter._ask_from = True, float("inf")
    assert (await client.post(CHAT, hello(20))).status == 200
    limiter._ask_from = 0.0
    assert (await client.post(CHAT, hello(5))).status == 200
    with redis_client.Redis.from_url(with_redis.url) as client_of_redis:
        assert client_of_redis.keys("*key:*:running") == []
    assert (await left(client.api_key))["key"].used == 70


# ---- what a key may be used for ------------------------------------------------------------------


async def may_use(client, **body):
    answer = await client.post(CHAT, hello(**body))
    assert answer.status in (200, 403), answer.body
    return answer.status == 200


@pytest.mark.parametrize(
    ("allowed", "by_id", "by_alias", "left_out", "listed"),
    [
        ([], True, True, True, ["echo", "gpt-4"]),
        (["echo"], True, True, True, ["echo", "gpt-4"]),
        (["gpt-4"], False, True, False, ["gpt-4"]),
        (["other"], False, False, False, []),
    ],
)
async def test_key_with_models_may_use_those_alone(
    echo, new_client, allowed, by_id, by_alias, left_out, listed
):
    client = await sync_to_async(new_client)(allowed_models=allowed)
    assert await may_use(client, model="echo") is by_id
    assert await may_use(client, model="gpt-4") is by_alias
    assert await may_use(client) is left_out
    cards = (await client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == listed
    assert (await client.get("/v1/models/echo")).status == (200 if "echo" in listed else 403)


async def test_refused_model_is_named_with_those_of_the_key_and_costs_nothing(echo, new_client):
    client = await sync_to_async(new_client)(
        allowed_models=["law", "zh"], requests_per_minute=5, scopes=["chat", "completions"]
    )
    for body in (hello(), hello(model="echo"), hello(model="nothing")):
        answer = await client.post(CHAT, body)
        assert answer.status == 403
        assert (answer.error["code"], answer.error["param"]) == ("permission_denied", "model")
        assert "(law, zh), none is served" in answer.error["message"]
        assert answer.headers["x-ratelimit-remaining-requests"] == "5"
    assert await Completion.objects.acount() == 0
    answer = await client.post(EMBEDDINGS, {"input": "a"})
    assert (answer.status, answer.error["param"]) == (403, None)
    assert "it is for chat, completions" in answer.error["message"]


async def test_key_whose_models_are_not_served_is_told_so(echo, new_client):
    client = await sync_to_async(new_client)(allowed_models=["law", "zh"])
    none = "Of the models that this API key may use (law, zh), none is served at present."
    listed = (await client.get("/v1/models")).json()
    assert (listed["data"], listed["object"]) == ([], "list")
    assert listed["llmapi"]["note"].startswith(none)
    for body, status in ((hello(), 403), (hello(model="echo"), 403), (hello(model="law"), 404)):
        answer = await client.post(CHAT, body)
        assert (answer.status, answer.error["param"]) == (status, "model")
        assert none in answer.error["message"]
        assert "Served:" not in answer.error["message"], "what it may not use is no help"
    answer = await client.get("/v1/models/law")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert none in answer.error["message"]
    one = await sync_to_async(new_client)(allowed_models=["law", "gpt-4"])
    assert "llmapi" not in (await one.get("/v1/models")).json()
    answer = await one.post(CHAT, hello(model="echo"))
    assert answer.error["message"].endswith("'echo'; it may use law, gpt-4.")


async def test_nothing_is_listed_while_the_model_is_loading_and_the_list_says_so(
    echo, new_client, monkeypatch
):
    monkeypatch.setattr(EchoBackend, "cards", [])
    monkeypatch.setattr(EchoBackend, "unavailable", "The model is still loading.")
    for allowed in ([], ["law"]):
        client = await sync_to_async(new_client)(allowed_models=allowed)
        listed = (await client.get("/v1/models")).json()
        assert listed["data"] == []
        assert listed["llmapi"]["note"] == "The model is still loading."


async def test_stream_of_a_key_that_is_revoked_meanwhile_goes_on_to_its_end(echo, new_client):
    client = await sync_to_async(new_client)()
    async with client.stream(CHAT, hello(50)) as call:
        assert (await call.start()).status == 200
        await sync_to_async(key_revoke)(client.api_key)
        assert (await client.post(CHAT, hello())).status == 401
        assert [event async for event in call.events()][-1] == "[DONE]"
