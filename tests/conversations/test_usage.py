"""Each request is counted once, whether its hour is folded or not."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from accounts import services as accounts
from conversations.models import Completion, ModelDay, UsageHour, UserDay
from conversations.usage import folding
from conversations.usage.folding import (
    DAY,
    day_of,
    days_fold,
    days_folded_until,
    folded_until,
    hour_of,
    hours_fold,
)
from conversations.usage.query import UsageQuery
from conversations.usage.totals import active_users, total, usage

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
    assert days_fold() >= 1
    assert [summed(asked(now, **question)) for question in questions] == before
    assert days_fold() == hours_fold() == 0


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


def test_folded_days_stand_for_their_hours(alice, bob, used) -> None:
    """Where days tell enough: without hours and keys, by user or by model."""
    midnight = day_of(timezone.now())
    for days_ago, hour, user, model in (
        (3, 23, alice, "tiny"),
        (2, 0, alice, "tiny"),
        (2, 5, bob, "large"),
        (2, 23, alice, "tiny"),
        (1, 23, bob, "tiny"),
    ):
        at = midnight - days_ago * DAY + (hour + 0.5) * HOUR
        used(0, created_at=at, user=user, model=model)

    def counts(group_by, from_day=3, hours=0, **fields):
        begin = midnight - from_day * DAY + hours * HOUR
        query = UsageQuery(start=begin, end=midnight, group_by=group_by, **fields)
        return [
            ((midnight - row.start).days, *row.group.values(), row.usage.requests)
            for row in usage(query)
        ]

    questions = [
        (("user",), {"width": "day"}),
        (("model",), {"width": "day", "kinds": ["completion"]}),
        (("model", "kind"), {}),
        ((), {"width": "day", "from_day": 2}),
        ((), {"width": "day", "hours": 12}),  # from the middle of a day
        (("user",), {"hours": 12, "users": [alice.pk]}),
    ]
    expected = [counts(group_by, **fields) for group_by, fields in questions]
    assert expected[0] == [
        (3, alice.pk, 1),
        (2, alice.pk, 2),
        (2, bob.pk, 1),
        (1, bob.pk, 1),
    ]
    hours_fold()
    assert days_fold() == 3
    assert [counts(group_by, **fields) for group_by, fields in questions] == expected
    UsageHour.objects.filter(hour__gte=midnight - 2 * DAY, hour__lt=midnight - HOUR).delete()
    assert [counts(group_by, **fields) for group_by, fields in questions] == expected
    # By key or by the hour there are none left.
    assert counts(("api_key",), from_day=2) == [(2, None, 1)]
    assert len(counts((), width="hour", from_day=2)) == 1


def test_a_day_is_folded_once_all_of_its_hours_are(used) -> None:
    midnight = day_of(timezone.now())
    used(0, created_at=midnight - 2 * DAY)
    used(0, created_at=midnight - 1.5 * DAY, status="running")
    assert (hours_fold(), days_fold()) == (1, 0)
    Completion.objects.update(status="completed")
    # Nothing came after it: whether more of this day will be folded, nobody can say yet.
    assert (hours_fold(), days_fold()) == (1, 0)
    used(0, created_at=midnight - DAY)
    assert (hours_fold(), days_fold()) == (1, 1)
    assert days_folded_until() == midnight - DAY
    assert UserDay.objects.get().requests == ModelDay.objects.get().requests == 2


def test_active_users_are_counted_once_whatever_is_folded(alice, bob, used) -> None:
    midnight = day_of(timezone.now())
    for hours_ago, user in ((50, alice), (49, alice), (49, bob), (20, bob), (1, alice), (0, bob)):
        used(0, created_at=midnight - hours_ago * HOUR, user=user)
        used(0, created_at=midnight - hours_ago * HOUR, user=user, model="large")
    days = [midnight - n * DAY for n in (3, 2, 1, 0)]
    halves = [midnight - n * 12 * HOUR for n in (5, 4, 3, 2, 1, 0)]
    for fold in (lambda: None, hours_fold, days_fold):
        fold()
        assert active_users(days, midnight + HOUR) == [2, 0, 2, 1]
        assert active_users(halves, midnight + HOUR) == [2, 0, 0, 1, 1, 1]
    assert UserDay.objects.exists()


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


def test_second_end_of_a_request_of_a_folded_day_folds_that_anew(history, used) -> None:
    midnight = day_of(timezone.now())
    row = used(0, created_at=midnight - 40 * HOUR, status="interrupted", completion_tokens=1)
    used(0, created_at=midnight - 30 * HOUR)
    used(0, created_at=midnight - 20 * HOUR)
    assert (hours_fold(), days_fold()) == (3, 1)
    history.finish(row.pk, "all of it", completion_tokens=90)
    for model in (UserDay, ModelDay):
        assert (model.objects.get().failed, model.objects.get().completion_tokens) == (0, 95)


@pytest.mark.django_db(transaction=True)
def test_folds_at_once_count_each_request_once(used, now, at_once) -> None:
    for hours_ago in range(2, 20):
        used(hours_ago)
        used(hours_ago, kind="chat")
    folded = at_once(6, lambda index: (hours_fold(), days_fold())[0])
    while hours_fold() or days_fold():  # Whoever found another at work has left the rest to it.
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
            days_fold()
            return
        for row in rows[index // 2 :: 3]:
            history.finish(row.pk, "later", completion_tokens=50)

    at_once(6, work)
    hours_fold()
    days_fold()
    Completion.objects.all().delete()
    for groups in ((), ("user",), ("api_key",)):
        together = total(asked(now, group_by=groups))
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
