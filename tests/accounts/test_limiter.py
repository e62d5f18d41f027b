"""Periods of budgets, headers, and who is asked while Redis is away."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import redis

from accounts.errors import RateLimitExceeded
from accounts.limits.headers import duration, headers_of
from accounts.limits.holders import Holder, period_of
from accounts.limits.limiter import Limiter
from accounts.limits.shared import SharedStore
from accounts.limits.store import Tally


def holder(kind: str, **limits: int) -> Holder:
    names = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "token_budget")
    return Holder(kind, 1, **{name: limits.get(name) for name in names}, budget_period="month")


def test_budgets_are_for_days_and_calendar_months_in_utc() -> None:
    in_kiritimati = timezone(timedelta(hours=14))
    new_year = datetime(2027, 1, 1, 10, tzinfo=in_kiritimati)  # still December in UTC
    day, month = period_of("day", new_year), period_of("month", new_year)
    assert (day.label, day.start) == ("2026-12-31", datetime(2026, 12, 31, tzinfo=UTC))
    assert (month.label, month.start) == ("2026-12", datetime(2026, 12, 1, tzinfo=UTC))
    assert day.end == month.end == datetime(2027, 1, 1, tzinfo=UTC)
    leap_day = datetime(2028, 2, 29, 23, 59, tzinfo=UTC)
    assert period_of("month", leap_day).end == datetime(2028, 3, 1, tzinfo=UTC)


def test_headers_are_of_the_holder_with_the_least_left() -> None:
    holders = (
        holder("user", requests_per_minute=100),
        holder("key", requests_per_minute=10, tokens_per_minute=500),
    )
    tallies = Tally(1, 95, 0, 60.0, 0, 0), Tally(1, 2, 700, 30.5, 0, 0)
    assert headers_of(holders, tallies) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "500",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "31s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.2, "1s"), (59.5, "1m0s"), (60, "1m0s"), (119, "1m59s")]
)
def test_durations_are_whole_seconds(seconds, text) -> None:
    assert duration(seconds) == text


def test_while_redis_is_away_most_requests_do_not_ask_it(redis_server) -> None:
    limiter, key = Limiter(), holder("key", requests_per_minute=2)
    limiter.open(SharedStore(redis_server.url))
    asked = []
    script = limiter._shared._reserve

    def broken(**arguments):
        asked.append(arguments)
        raise redis.TimeoutError("no answer")

    limiter._shared._reserve = broken
    for number in range(2):
        limiter.reserve((key,), str(number), 1, lambda holder, start: 0)
    with pytest.raises(RateLimitExceeded):
        limiter.reserve((key,), "2", 1, lambda holder, start: 0)
    assert len(asked) == 1
    limiter._shared._reserve = script
    limiter._ask_from = 0.0
    back = limiter.reserve((key,), "3", 1, lambda holder, start: 0)
    assert back.store is limiter._shared
    limiter.close()


def test_reservation_ends_once(redis_server) -> None:
    limiter, key = Limiter(), holder("key", tokens_per_minute=100)
    for store in (None, SharedStore(redis_server.url)):
        limiter.open(store)
        reservation = limiter.reserve((key,), "a", 50, lambda holder, start: 0)
        limiter.settle(reservation, 20)
        limiter.settle(reservation, 30)
        limiter.give_back(reservation)
        assert limiter.look((key,)).tallies[0].tokens == 20
    limiter.close()


def test_what_redis_counted_and_answered_too_late_is_given_back(redis_server) -> None:
    limiter, key = Limiter(), holder("key", concurrent_requests=1, tokens_per_minute=100)
    limiter.open(SharedStore(redis_server.url))
    script = limiter._shared._reserve

    def late(**arguments):
        script(**arguments)
        raise redis.TimeoutError("no answer in time")

    limiter._shared._reserve = late
    mine = limiter.reserve((key,), "a", 50, lambda holder, start: 0)
    assert mine.store is not limiter._shared
    limiter._shared._reserve = script
    limiter._ask_from = 0.0
    assert (limiter.look((key,)).tallies[0].running, limiter.look((key,)).tallies[0].tokens) == (
        0,
        0,
    )
    limiter.close()


def test_settling_while_redis_is_away_is_no_error(redis_server) -> None:
    limiter, key = Limiter(), holder("key", token_budget=100, concurrent_requests=1)
    limiter.open(SharedStore(redis_server.url))
    reservation = limiter.reserve((key,), "a", 50, lambda holder, start: 0)
    redis_server.stop()
    limiter.settle(reservation, 20)
    redis_server.start()
    limiter._ask_from = 0.0
    again = limiter.reserve((key,), "b", 80, lambda holder, start: 20)
    assert again.store is limiter._shared
    assert limiter.look((key,)).tallies[0].used == 20
    limiter.close()
