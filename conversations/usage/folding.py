"""Completions, summed up by the hour: what makes `UsageHour` rows. And hours, summed up by the day:
`UserDay` and `ModelDay`.

The completions are the truth. Hours are folded in order, each in one transaction, once they are
over and none of their requests runs any more; what is after the newest folded hour is counted from
the completions themselves (`usage.parts`), so there is no mark to keep. Days are folded likewise,
once all of their hours are. An hour, and its day, is folded anew if a request of it gets another
end. Of several processes that fold at once, one does.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from conversations.models import Completion, ModelDay, UsageHour, UserDay
from conversations.storage.writing import write_transaction

Status = Completion.Status
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# A request takes its time of creation before its row is committed, and may wait in between for
# SQLite's one writer (20 s) or a lock; hosts' clocks differ by seconds.
SETTLED_AFTER = timedelta(minutes=5)
FOLD_LOCK = 0x666F6C64  # "fold"

GROUPS = ("user", "api_key", "model", "kind")
GROUPS_OF_DAYS: dict[Any, tuple[str, ...]] = {
    ModelDay: ("model", "kind"),
    UserDay: ("user",),
}
"""The smaller one first."""
SUMS = {
    "requests": Count("pk"),
    "failed": Count("pk", filter=Q(status__in=[Status.FAILED, Status.INTERRUPTED])),
    "cancelled": Count("pk", filter=Q(status=Status.CANCELLED)),
    "prompt_tokens": Sum("prompt_tokens"),
    "cached_tokens": Sum("cached_tokens"),
    "completion_tokens": Sum("completion_tokens"),
    "duration_ms": Coalesce(Sum("duration_ms"), 0),
    "durations": Count("duration_ms"),
    "first_token_ms": Coalesce(Sum("first_token_ms"), 0),
    "first_tokens": Count("first_token_ms"),
}


def hours_fold(*, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Folds the hours that are due, oldest first; returns how many it folded. A transaction for
    each; returns at once while another process folds."""
    folded = 0
    while not should_stop() and _next_hour_fold():
        folded += 1
    return folded


def days_fold(*, should_stop: Callable[[], bool] = lambda: False) -> int:
    """The same for days, whose hours must be folded before."""
    folded = 0
    while not should_stop() and _next_day_fold():
        folded += 1
    return folded


def hour_refold(completion_pk: int) -> None:
    """Folds the hour of this completion anew, and its day, if they are folded. In the transaction
    that changes the completion, and after the change: nobody folds the hour from before it."""
    _lock(wait=True)
    hour = hour_of(Completion.objects.values_list("created_at", flat=True).get(pk=completion_pk))
    until = folded_until()
    if until is not None and hour < until:
        UsageHour.objects.filter(hour=hour).delete()
        _fold(hour)
    day, until = day_of(hour), days_folded_until()
    if until is not None and day < until:
        _fold_day(day)


def folded_until() -> datetime | None:
    """The end of the newest folded hour: completions from then on are not in any `UsageHour`.
    None: nothing is folded."""
    newest = UsageHour.objects.order_by("-hour").values_list("hour", flat=True).first()
    return None if newest is None else newest + HOUR


def days_folded_until() -> datetime | None:
    """The end of the newest folded day: hours from then on are in no `UserDay` or `ModelDay`."""
    newest = UserDay.objects.order_by("-day").values_list("day", flat=True).first()
    return None if newest is None else newest + DAY


def hour_of(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(time: datetime) -> datetime:
    return hour_of(time).replace(hour=0)


def begun_within(start: datetime, end: datetime) -> QuerySet[Completion]:
    return Completion.objects.filter(created_at__gte=start, created_at__lt=end)


def _next_hour_fold() -> bool:
    """False if no hour is due, or another process is at it."""
    if _next_hour() is None:  # Asked first without a transaction, which takes SQLite's one lock.
        return False
    with write_transaction():
        if not _lock(wait=False):
            return False
        hour = _next_hour()
        if hour is None:
            return False
        _fold(hour)
        return True


def _next_hour() -> datetime | None:
    """The first hour with completions that is not folded, if it may be."""
    completions = Completion.objects.order_by("created_at").values_list("created_at", flat=True)
    until = folded_until()
    oldest = (completions if until is None else completions.filter(created_at__gte=until)).first()
    if oldest is None:
        return None
    hour = hour_of(oldest)
    if hour + HOUR + SETTLED_AFTER > timezone.now():
        return None
    is_running = begun_within(hour, hour + HOUR).filter(status=Status.RUNNING).exists()
    return None if is_running else hour


def _fold(hour: datetime) -> None:
    """One GROUP BY over the hour's completions; a row for each key and model that was used."""
    groups = begun_within(hour, hour + HOUR).order_by().values(*GROUPS).annotate(**SUMS_OF_GROUPS)
    UsageHour.objects.bulk_create(
        (
            UsageHour(
                hour=hour,
                user_id=group["user"],
                api_key_id=group["api_key"],
                model=group["model"],
                kind=group["kind"],
                **{name: group[f"sum_{name}"] for name in SUMS},
            )
            for group in groups.iterator()
        ),
        batch_size=500,
    )


def _next_day_fold() -> bool:
    """False if no day is due, or another process is at it."""
    if _next_day() is None:
        return False
    with write_transaction():
        day = _next_day() if _lock(wait=False) else None
        if day is not None:
            _fold_day(day)
    return day is not None


def _next_day() -> datetime | None:
    """The first day with hours that is not folded, if all of its hours are."""
    hours = UsageHour.objects.order_by("hour").values_list("hour", flat=True)
    until, hours_until = days_folded_until(), folded_until()
    oldest = (hours if until is None else hours.filter(hour__gte=until)).first()
    if oldest is None or hours_until is None:
        return None
    day = day_of(oldest)
    return day if day + DAY <= hours_until else None


def _fold_day(day: datetime) -> None:
    """From its hours, in place of what it was."""
    hours = UsageHour.objects.filter(hour__gte=day, hour__lt=day + DAY).order_by()
    for model, names in GROUPS_OF_DAYS.items():
        model.objects.filter(day=day).delete()
        columns = [model._meta.get_field(name).attname for name in names]
        model.objects.bulk_create(
            (
                model(
                    day=day,
                    **{column: group[column] for column in columns},
                    **{name: group[f"sum_{name}"] for name in SUMS},
                )
                for group in hours.values(*columns).annotate(**SUMS_OF_HOURS)
            ),
            batch_size=500,
        )


# An annotation may not be called as a field is.
SUMS_OF_GROUPS = {f"sum_{name}": total for name, total in SUMS.items()}
SUMS_OF_HOURS = {f"sum_{name}": Sum(name) for name in SUMS}
"""Of rows that are folded already, hours or days."""


def _lock(*, wait: bool) -> bool:
    """Until the transaction ends nobody else folds. SQLite has one writer anyway."""
    if connection.vendor != "postgresql":
        return True
    function = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s)", [FOLD_LOCK])
        return cursor.fetchone()[0] is not False
