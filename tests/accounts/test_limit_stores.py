"""Both stores keep the same promises: the one in memory, and the one in Redis."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest
import redis

from accounts.limits.holders import Claim, Holder, Period, Share
from accounts.limits.memory import MemoryStore
from accounts.limits.shared import PREFIX, SharedStore
from accounts.limits.store import Check, Reading, Store, Tally, Verdict

NOVEMBER = Period("2026-11", datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
EVERY_LIMIT = {
    "concurrent_requests": 100,
    "requests_per_minute": 100,
    "tokens_per_minute": 10_000,
    "token_budget": 10_000,
}


class Place(Protocol):
    store: Store

    def pass_time(self, seconds: float) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class InRedis:
    """Time passes by making everything that is kept so much older."""

    store: SharedStore
    client: Any

    def pass_time(self, seconds: float) -> None:
        for key in self.client.scan_iter(f"{PREFIX}*:window"):
            for member in self.client.zrange(key, 0, -1):
                self.client.zincrby(key, -1000 * seconds, member)


@pytest.fixture(params=["memory", "redis"])
def place(request):
    if request.param == "memory":
        yield InMemory()
        return
    server = request.getfixturevalue("redis_server")
    store = SharedStore(server.url)
    with redis.Redis.from_url(server.url) as client:
        yield InRedis(store, client)
    store.close()


def holder(kind="key", pk=1, **limits: int) -> Holder:
    values = dict.fromkeys(EVERY_LIMIT) | limits
    return Holder(kind, pk, **values, budget_period="month")


def ask(place: Place, name: str, tokens: int, *holders: Holder, used: int | None = None) -> Verdict:
    """Reserve; `used`: what the database says of every budget that must be read."""
    claim = claim_of(name, tokens, *holders)
    verdict = place.store.reserve(claim, {})
    if verdict.check is Check.UNREAD and used is not None:
        readings = {key: Reading(used, number) for key, number in verdict.unread.items()}
        verdict = place.store.reserve(claim, readings)
    return verdict


def claim_of(name: str, tokens: int, *holders: Holder) -> Claim:
    shares = tuple(Share(h, None if h.token_budget is None else NOVEMBER) for h in holders)
    return Claim(name, tokens, shares)


def tally(place: Place, holder: Holder) -> Tally:
    return place.store.look(claim_of("", 0, holder)).tallies[0]


def test_requests_within_any_60_seconds_are_at_most_the_limit(place) -> None:
    key = holder(requests_per_minute=3)
    assert ask(place, "a", 1, key).check is Check.PASSED
    place.pass_time(20)
    assert [ask(place, name, 1, key).check for name in "bcd"] == [0, 0, Check.REQUESTS]
    assert 38 < ask(place, "d", 1, key).wait_s <= 40
    place.pass_time(39)
    assert ask(place, "d", 1, key).check is Check.REQUESTS, "none is given back bit by bit"
    place.pass_time(2)
    assert [ask(place, name, 1, key).check for name in "de"] == [Check.PASSED, Check.REQUESTS]
    assert tally(place, key).requests == 3


def test_settled_tokens_are_what_counts_and_reserved_ones_until_then(place) -> None:
    key = holder(tokens_per_minute=100)
    assert ask(place, "a", 70, key).check is Check.PASSED
    assert ask(place, "b", 31, key).check is Check.TOKENS
    place.store.settle(claim_of("a", 70, key), 25)
    assert tally(place, key).tokens == 25
    assert ask(place, "b", 75, key).check is Check.PASSED
    assert tally(place, key).tokens == 100
    place.pass_time(61)
    assert (tally(place, key).requests, tally(place, key).tokens) == (0, 0)
    place.store.settle(claim_of("b", 75, key), 10)
    assert tally(place, key).tokens == 0, "it ended after its minute"


def test_wait_for_tokens_is_until_enough_of_them_have_left_the_window(place) -> None:
    key = holder(tokens_per_minute=100)
    for name in "abc":
        assert ask(place, name, 30, key).check is Check.PASSED
        place.pass_time(10)
    assert 28 < ask(place, "d", 20, key).wait_s <= 30
    assert 38 < ask(place, "d", 70, key).wait_s <= 40
    assert 48 < ask(place, "d", 100, key).wait_s <= 50


def test_slot_is_free_when_its_request_has_ended(place) -> None:
    key = holder(concurrent_requests=2)
    assert [ask(place, name, 1, key).check for name in "abc"] == [0, 0, Check.CONCURRENT]
    place.store.settle(claim_of("a", 1, key), 1)
    place.store.settle(claim_of("a", 1, key), 1)
    assert [ask(place, name, 1, key).check for name in "cd"] == [0, Check.CONCURRENT]
    assert tally(place, key).running == 2


def test_what_is_given_back_was_never_counted(place) -> None:
    key = holder(**EVERY_LIMIT)
    assert ask(place, "a", 5, key, used=7).check is Check.PASSED
    place.store.give_back(claim_of("a", 5, key))
    left = tally(place, key)
    assert (left.running, left.requests, left.tokens, left.reserved) == (0, 0, 0, 0)
    assert ask(place, "b", 10_000, key, used=7).check is Check.BUDGET, "7 are used"
    assert ask(place, "b", 9_993, key).check is Check.PASSED


@pytest.mark.parametrize(
    ("limit", "check"),
    [
        ("concurrent_requests", Check.CONCURRENT),
        ("requests_per_minute", Check.REQUESTS),
        ("tokens_per_minute", Check.TOKENS),
        ("token_budget", Check.BUDGET),
    ],
)
def test_claim_that_one_holder_refuses_counts_for_none(place, limit, check) -> None:
    user = holder("user", **EVERY_LIMIT)
    key = holder("key", **{**EVERY_LIMIT, limit: 0})
    verdict = ask(place, "a", 1, user, key, used=0)
    assert (verdict.check, verdict.share) == (check, 1)
    assert tally(place, user) == Tally(0, 0, 0, 0.0, 0, 0)


def test_checks_come_in_their_order(place) -> None:
    limits = dict.fromkeys(EVERY_LIMIT, 0)
    for name, check in zip(
        EVERY_LIMIT,
        (Check.CONCURRENT, Check.REQUESTS, Check.TOKENS, Check.BUDGET),
        strict=True,
    ):
        assert ask(place, "a", 1, holder(**limits), used=0).check is check
        limits[name] = 100


def test_budget_is_what_the_database_says_and_what_came_since(place) -> None:
    key = holder(token_budget=1000)
    assert ask(place, "a", 100, key).check is Check.UNREAD
    assert ask(place, "a", 100, key, used=800).check is Check.PASSED
    assert ask(place, "b", 101, key).check is Check.BUDGET
    place.store.settle(claim_of("a", 100, key), 40)
    assert (tally(place, key).used, tally(place, key).reserved) == (840, 0)
    assert ask(place, "b", 160, key).check is Check.PASSED
    assert ask(place, "c", 1, key).check is Check.BUDGET


def test_budget_that_is_forgotten_is_read_again_without_what_is_still_reserved(place) -> None:
    key = holder(token_budget=1000)
    ask(place, "a", 100, key, used=0)
    place.store.forget([claim_of("a", 100, key).shares[0].budget_key])
    assert ask(place, "b", 401, key, used=500).check is Check.BUDGET
    assert ask(place, "b", 400, key).check is Check.PASSED


def test_reading_is_not_taken_if_a_request_ended_meanwhile(place) -> None:
    key = holder(token_budget=1000)
    ask(place, "a", 100, key, used=0)
    claim = claim_of("b", 100, key)
    place.store.forget([claim.shares[0].budget_key])
    unread = place.store.reserve(claim, {}).unread
    place.store.settle(claim_of("a", 100, key), 60)  # the database may have been read before
    verdict = place.store.reserve(claim, {k: Reading(0, n) for k, n in unread.items()})
    assert verdict.check is Check.UNREAD
    again = {key: Reading(60, number) for key, number in verdict.unread.items()}
    assert place.store.reserve(claim, again).check is Check.PASSED
    assert tally(place, key).used == 60


def test_many_at_once_are_let_in_exactly_to_the_limit(place, at_once) -> None:
    user, key = holder("user", requests_per_minute=30), holder("key", concurrent_requests=10)
    checks = dict(at_once(40, lambda i: (i, ask(place, str(i), 1, user, key).check)))
    assert sorted(checks.values()) == [Check.PASSED] * 10 + [Check.CONCURRENT] * 30
    passed = [claim_of(str(i), 1, user, key) for i in checks if checks[i] is Check.PASSED]
    assert tally(place, user).requests == 10
    at_once(10, lambda i: place.store.settle(passed[i], 1))
    assert tally(place, key).running == 0


def test_store_keeps_nothing_of_those_who_are_looked_at_only(redis_server) -> None:
    store = SharedStore(redis_server.url)
    ask(place := InRedis(store, None), "a", 1, holder(**EVERY_LIMIT), used=0)
    with redis.Redis.from_url(redis_server.url) as client:
        assert all(client.pttl(key) > 0 for key in client.scan_iter())
        before = set(client.scan_iter())
        tally(place, holder(pk=2, **EVERY_LIMIT))
        assert set(client.scan_iter()) == before
    store.close()


def test_slot_of_a_killed_process_is_free_when_its_lease_is_over(redis_server) -> None:
    key = holder(concurrent_requests=1, token_budget=1000)
    mine = SharedStore(redis_server.url, lease_s=0.2, renew_every_s=0.02)
    others = SharedStore(redis_server.url)
    dead, alive = InRedis(mine, None), InRedis(others, None)
    assert ask(dead, "a", 600, key, used=0).check is Check.PASSED
    assert ask(alive, "b", 600, key).check is Check.CONCURRENT
    mine.close()  # renews no more
    while (verdict := ask(alive, "b", 600, key)).check is Check.CONCURRENT:
        assert verdict.tallies[0].running == 1
    assert verdict.check is Check.UNREAD, "only the rows know what it has used"
    assert ask(alive, "b", 600, key, used=50).check is Check.PASSED
    assert tally(alive, key).reserved == 600
    others.close()


def test_leases_are_renewed_and_lost_ones_put_back(redis_server) -> None:
    key = holder(concurrent_requests=2)
    store = SharedStore(redis_server.url, renew_every_s=1000)
    place = InRedis(store, None)
    ask(place, "a", 1, key)
    ask(place, "b", 1, key)
    with redis.Redis.from_url(redis_server.url) as client:
        lease = client.zscore(f"{PREFIX}key:1:running", "a") - 5000
        client.zadd(f"{PREFIX}key:1:running", {"a": lease})
        store.renew()
        assert client.zscore(f"{PREFIX}key:1:running", "a") > lease
        client.flushall()
    store.settle(claim_of("b", 1, key), 1)
    assert tally(place, key).running == 0
    store.renew()
    assert tally(place, key).running == 1
    store.close()


def test_same_script_sent_twice_counts_once(redis_server) -> None:
    """As a client does whose connection breaks before the answer."""
    store = SharedStore(redis_server.url)
    place, key = InRedis(store, None), holder(**EVERY_LIMIT)
    first = ask(place, "a", 5, key, used=0)
    assert ask(place, "a", 5, key).tallies[0].tokens == first.tallies[0].tokens == 5
    assert tally(place, key).reserved == 5
    store.close()


def test_memory_keeps_nothing_of_holders_who_asked_long_ago() -> None:
    place = InMemory()
    others = [holder(pk=pk, **EVERY_LIMIT) for pk in range(1, 20)]
    for key in others:
        assert ask(place, f"of {key.pk}", 10, key, used=0).check is Check.PASSED
    for key in others[1:]:
        place.store.settle(claim_of(f"of {key.pk}", 10, key), 5)
    place.pass_time(7200)
    assert ask(place, "a", 10, holder(pk=99, requests_per_minute=1)).check is Check.PASSED
    assert len(place.store) == 2  # this one, and the first, whose request is still running
    assert tally(place, others[0]).running == 1
    # What was used is read again, and by who asked before it was forgotten not taken.
    stale = {f"{others[1].name}:2026-11": Reading(0, 0)}
    assert place.store.reserve(claim_of("b", 10, others[1]), stale).check is Check.UNREAD
    assert ask(place, "b", 10, others[1], used=5).tallies[0].used == 5
