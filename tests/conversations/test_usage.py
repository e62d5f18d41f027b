"""Each request is counted once, whether its hour is folded or not."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from accounts import services as accounts
from conversations.models import Completion, UsageHour
from conversations.usage import folding
from conversations.usage.folding import folded_until, hour_of, hours_fold
from conversations.usage.totals import UsageQuery, total, usage

HOUR = timedelta(hours=1)
GROUPINGS = (
    (),
    ("user",),
    ("api_key",),
    ("model",),
    ("kind",),
    ("user", "model"),
    ("user", "api_key", "model", "kind"),
)


@pytest.fixture
def now() -> datetime:
    return hour_of(timezone.now())


@pytest.fixture
def used(alice, bob, now):
    """used(hours_ago, **fields): a request of alice's that ended."""
    numbers = iter(range(10**6))

    def make(hours_ago: float, **fields) -> Completion:
        values = {
            "public_id": f"cmpl-{next(numbers)}",
            "kind": "completion",
            "user": alice,
            "model": "tiny",
            "status": "completed",
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "cached_tokens": 3,
            "first_token_ms": 10,
            "duration_ms": 100,
            "created_at": now - hours_ago * HOUR,
        }
        return Completion.objects.create(**{**values, **fields})

    return make


def asked(now: datetime, **fields) -> list:
    days = UsageQuery(start=now - 60 * HOUR, end=now + HOUR, **fields)
    return usage(days)


def summed(rows) -> list[tuple]:
    return [(row.start, tuple(row.group.values()), row.usage) for row in rows]


def test_numbers_are_the_same_before_and_after_a_fold(alice, bob, used, now) -> None:
    rng = random.Random(1)
    keys = [accounts.key_create(user=user)[0] for user in (alice, alice, bob)]
    for _ in range(150):
        key = rng.choice([*keys, None])
        used(
            rng.uniform(-0.5, 59),
            user=key.user if key else alice,
            api_key=key,
            model=rng.choice(["tiny", "large"]),
            kind=rng.choice(["chat", "completion", "embedding"]),
            status=rng.choice(["completed", "failed", "cancelled", "interrupted"]),
            prompt_tokens=rng.randrange(1000),
            duration_ms=rng.choice([None, 100, 300]),
            first_token_ms=rng.choice([None, 20]),
        )
    questions = [
        {"width": width, "group_by": groups, **only}
        for width in (None, "hour", "day")
        for groups in GROUPINGS
        for only in (
            {},
            {"users": [bob.pk]},
            {"keys": [keys[0].pk, keys[2].pk]},
            {"models": ["large"], "kinds": ["chat"]},
        )
    ]
    before = [summed(asked(now, **question)) for question in questions]
    assert total(asked(now)).requests == 150
    assert hours_fold() > 20
    assert UsageHour.objects.exists()
    assert [summed(asked(now, **question)) for question in questions] == before
    Completion.objects.filter(created_at__lt=folded_until()).delete()
    assert [summed(asked(now, **question)) for question in questions] == before


def test_usage_of_one_hour_says_all_that_happened(alice, used, now) -> None:
    used(2.9)
    used(2.5, status="failed", duration_ms=None, first_token_ms=None)
    used(2.1, status="interrupted")
    used(3.0, status="cancelled")
    hours_fold()
    (row,) = asked(now, width="hour")
    assert row.start == now - 3 * HOUR
    assert (row.usage.requests, row.usage.failed, row.usage.cancelled) == (4, 2, 1)
    assert (row.usage.prompt_tokens, row.usage.completion_tokens) == (28, 20)
    assert (row.usage.cached_tokens, row.usage.total_tokens) == (12, 48)
    assert (row.usage.mean_duration_ms, row.usage.mean_first_token_ms) == (100, 10)


def test_days_are_those_of_utc(used) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    used(0, created_at=midnight - timedelta(seconds=1))
    used(0, created_at=midnight)
    query = UsageQuery(start=midnight - 5 * HOUR, end=midnight + 5 * HOUR, width="day")
    for _ in range(2):
        assert [row.start for row in usage(query)] == [midnight - 24 * HOUR, midnight]
        hours_fold()


def test_hour_with_a_running_request_waits_and_so_do_later_ones(alice, history, used, now) -> None:
    used(9)
    running = used(8, status="running")
    used(7)
    assert hours_fold() == 1
    assert folded_until() == now - 8 * HOUR
    history.finish(running.pk, "at last")
    assert hours_fold() == 2
    assert hours_fold() == 0


def test_hour_that_is_not_over_is_not_folded(used, now) -> None:
    used(0)
    used(-0.01)
    assert hours_fold() == 0
    assert total(asked(now)).requests == 2


def test_second_end_of_a_folded_request_folds_its_hour_anew(history, used, now) -> None:
    row = used(5, status="interrupted", completion_tokens=1, duration_ms=None)
    used(5)
    used(3)
    hours_fold()
    history.finish(row.pk, "all of it", completion_tokens=90)
    until = folded_until()
    assert until == now - 2 * HOUR
    Completion.objects.all().delete()
    together = total(asked(now))
    assert (together.requests, together.failed, together.completion_tokens) == (3, 0, 100)


@pytest.mark.django_db(transaction=True)
def test_folds_at_once_count_each_request_once(used, now, at_once) -> None:
    for hours_ago in range(2, 20):
        used(hours_ago)
        used(hours_ago, kind="chat")
    folded = at_once(6, lambda index: hours_fold())
    while hours_fold():  # Whoever found another at work has left the rest to it.
        pass
    assert sum(folded) <= 18
    assert UsageHour.objects.count() == 36
    assert total(asked(now)).requests == 36


@pytest.mark.django_db(transaction=True)
def test_folds_and_second_ends_at_once_agree(history, used, now, at_once) -> None:
    rows = [used(hours_ago, status="interrupted") for hours_ago in range(2, 18)]

    def work(index: int) -> None:
        if index % 2:
            hours_fold()
            return
        for row in rows[index // 2 :: 3]:
            history.finish(row.pk, "later", completion_tokens=50)

    at_once(6, work)
    hours_fold()
    Completion.objects.all().delete()
    together = total(asked(now))
    assert (together.requests, together.failed) == (16, 0)
    assert together.completion_tokens == 16 * 50


def test_times_are_whole_hours(used, now) -> None:
    used(3)
    for minutes in (1, 59):
        at = now - 3 * HOUR + timedelta(minutes=minutes)
        assert total(usage(UsageQuery(start=at, end=at + HOUR))).requests == 1
    assert usage(UsageQuery(start=now - 2 * HOUR, end=now)) == []
    assert usage(UsageQuery(start=now - 4 * HOUR, end=now - 3 * HOUR)) == []


def test_only_hours_that_settled_are_folded(used, now, monkeypatch) -> None:
    used(1)
    monkeypatch.setattr(folding, "SETTLED_AFTER", timedelta(hours=2))
    assert hours_fold() == 0
    monkeypatch.setattr(folding, "SETTLED_AFTER", timedelta(0))
    assert hours_fold() == 1
