"""More requests than there is room for: refusals that are quick, say when to come again, and cost
nothing; and nobody is kept out by another."""

import asyncio
import threading

import pytest
from asgiref.sync import sync_to_async

from accounts.authentication import ApiKeyAuthentication
from accounts.errors import InvalidApiKey
from accounts.keys import new_key
from accounts.models import ApiKey, User
from accounts.services import key_create, key_revoke
from conversations.models import Completion
from conversations.services import completion_start
from llmapi import completions
from llmapi.backends.echo import EchoBackend
from llmapi.lanes import STRANGERS, KnownKeys, known_keys
from llmapi.pending import pending
from llmapi.running import running
from llmapi.services import models
from tests.door.client import Client
from tests.door.conftest import close_connections

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
LONG = {"messages": [{"role": "user", "content": "word " * 400}], "max_tokens": 400}
"""Of the echo: seconds."""


@pytest.fixture
def echo(transactional_db, settings):
    """Six places."""
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"max_pending": 6})
    known_keys._lanes.clear()
    running.reset()
    models.start([EchoBackend(delay_s=0.02)], lambda line: None)
    yield
    models.stop()
    close_connections()
    assert len(pending) == 0
    assert not pending._counts


def client_of(username: str) -> Client:
    user, _ = User.objects.get_or_create(username=username)
    return Client(key_create(user=user)[1])


@pytest.fixture
def alice(echo) -> Client:
    return client_of("alice")


@pytest.fixture
def bob(echo) -> Client:
    return client_of("bob")


class Streams:
    """Requests that take long; all are left at the end of the block."""

    def __init__(self, client: Client, count: int) -> None:
        self.client, self.count, self.calls = client, count, []

    async def __aenter__(self) -> "Streams":
        for _ in range(self.count):
            call = await self.client.begin(CHAT, {**LONG, "stream": True})
            self.calls.append(call)
            assert (await call.start()).status == 200
        return self

    async def __aexit__(self, *_: object) -> None:
        before = len(pending)
        for call in self.calls:
            await call.disconnect()
        for _ in range(500):  # while their ends are written
            if len(pending) <= before - self.count:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("their places are still taken")


def is_refused(answer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"]) == (status, code), answer.body
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_full_server_refuses_whoever_comes(alice, bob) -> None:
    carol = await sync_to_async(client_of)("carol")
    async with Streams(alice, 3), Streams(bob, 1), Streams(carol, 1):
        dave = await sync_to_async(client_of)("dave")
        async with Streams(dave, 1):
            for client in (alice, dave, Client()):
                is_refused(await client.post(CHAT, HELLO), 503, "overloaded")
        assert (await dave.post(CHAT, HELLO)).status == 200
    assert await Completion.objects.acount() == 7


async def test_one_user_over_any_number_of_keys_leaves_room_for_others(alice, bob) -> None:
    with_another_key = await sync_to_async(client_of)("alice")
    async with Streams(alice, 2), Streams(with_another_key, 1):
        third_key = await sync_to_async(client_of)("alice")
        for client in (alice, with_another_key, third_key):
            is_refused(await client.post(CHAT, HELLO), 429, "rate_limit_exceeded")
        assert (await bob.post(CHAT, HELLO)).status == 200


async def test_a_refused_request_burns_nothing(alice) -> None:
    await ApiKey.objects.filter(user__username="alice").aupdate(requests_per_minute=10)
    async with Streams(alice, 3):
        for _ in range(5):
            assert (await alice.post(CHAT, HELLO)).status == 429
    assert await Completion.objects.acount() == 3
    answer = await alice.post(CHAT, HELLO)
    assert answer.status == 200
    assert answer.headers["x-ratelimit-remaining-requests"] == "6"


async def test_a_number_for_each_user_that_is_set_counts(alice, bob, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"max_pending_per_user": 1})
    async with Streams(alice, 1):
        is_refused(await alice.post(CHAT, HELLO), 429, "rate_limit_exceeded")
        assert (await bob.post(CHAT, HELLO)).status == 200


async def test_requests_without_a_good_key_do_not_fill_the_server(alice, monkeypatch) -> None:
    """While all threads look for keys that are none, who is known still gets a place."""
    assert (await alice.post(CHAT, HELLO)).status == 200
    looked, go_on = threading.Semaphore(0), threading.Event()
    find_key = ApiKeyAuthentication.find_key

    def slowly(self, parsed):
        looked.release()
        go_on.wait()
        return find_key(self, parsed)

    with monkeypatch.context() as patch:
        patch.setattr(ApiKeyAuthentication, "find_key", slowly)
        flood = [asyncio.ensure_future(Client(new_key().text).post(CHAT, HELLO)) for _ in range(20)]
        for _ in range(3):
            await asyncio.to_thread(looked.acquire)
        coming = asyncio.as_completed(flood)
        refused = [await next(coming) for _ in range(17)]
        hers = asyncio.ensure_future(alice.post(CHAT, HELLO))
        await asyncio.sleep(0.05)
        assert not hers.done(), "she waits, and was not sent away"
        go_on.set()
        answers = await asyncio.gather(*flood)
    for answer in refused:
        is_refused(answer, 503, "overloaded")
    assert sorted(answer.status for answer in answers) == [401] * 3 + [503] * 17
    assert (await hers).status == 200


async def test_admissions_take_turns_between_users(alice, bob, monkeypatch, settings) -> None:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"max_pending": 100})
    for client in (alice, bob):
        assert (await client.post(CHAT, HELLO)).status == 200
    order, go_on = [], threading.Event()

    def slowly(new):
        go_on.wait()
        order.append(new.user_id)
        return completion_start(new)

    monkeypatch.setattr(completions, "completion_start", slowly)
    greedy = [asyncio.ensure_future(bob.post(CHAT, HELLO)) for _ in range(40)]
    await asyncio.sleep(0.1)
    modest = asyncio.ensure_future(alice.post(CHAT, HELLO))
    await asyncio.sleep(0.1)
    go_on.set()
    answers = await asyncio.gather(modest, *greedy)
    assert [answer.status for answer in answers] == [200] * 41
    her_id = (await User.objects.aget(username="alice")).pk
    # Eight of his are with the threads, or next; then it is her turn.
    assert order.index(her_id) <= 12


async def test_a_known_key_that_is_revoked_is_a_strangers_again(alice) -> None:
    assert (await alice.post(CHAT, HELLO)).status == 200
    header = f"Bearer {alice.key}".encode()
    assert known_keys.lane(header).startswith("user-")
    await sync_to_async(key_revoke)(await ApiKey.objects.aget())
    assert (await alice.post(CHAT, HELLO)).status == 401
    assert known_keys.lane(header) == STRANGERS


def test_only_so_many_keys_are_known(monkeypatch) -> None:
    monkeypatch.setattr("llmapi.lanes.MOST_KNOWN", 2)
    known = KnownKeys()
    known.learn(b"a", 1)
    known.learn(b"b", 2)
    assert known.lane(b"a") == "user-1"
    known.learn(b"c", 3)
    assert [known.lane(key) for key in (b"a", b"b", b"c")] == ["user-1", STRANGERS, "user-3"]


async def test_a_failure_of_the_database_does_not_make_a_stranger(alice, monkeypatch) -> None:
    assert (await alice.post(CHAT, HELLO)).status == 200

    def unknown(self, parsed):
        raise InvalidApiKey("unknown")

    def broken(self, parsed):
        raise ZeroDivisionError

    header = f"Bearer {alice.key}".encode()
    monkeypatch.setattr(ApiKeyAuthentication, "find_key", broken)
    assert (await alice.post(CHAT, HELLO)).status == 500
    assert known_keys.lane(header) != STRANGERS
    monkeypatch.setattr(ApiKeyAuthentication, "find_key", unknown)
    assert (await alice.post(CHAT, HELLO)).status == 401
    assert known_keys.lane(header) == STRANGERS
