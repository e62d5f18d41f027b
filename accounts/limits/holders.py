"""Whose use is counted, and against what: an account over all of its keys, and one key alone."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from django.conf import settings
from django.utils import timezone

from accounts.models import ApiKey, BudgetPeriod, Limits, User


@dataclass(frozen=True, slots=True)
class Period:
    """A day or a calendar month in UTC, from `start` until before `end`."""

    label: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """A user or a key with at least one limit. None: no such limit; 0: nothing at all."""

    kind: Literal["user", "key"]
    pk: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    token_budget: int | None
    budget_period: str

    @property
    def name(self) -> str:
        """What it is called in the stores."""
        return f"{self.kind}:{self.pk}"

    @property
    def noun(self) -> str:
        """What it is called in sentences."""
        return "account" if self.kind == "user" else "API key"


@dataclass(frozen=True, slots=True)
class Share:
    """What one request asks of one holder. `period`: that of its budget now; None: it has none."""

    holder: Holder
    period: Period | None

    @property
    def budget_key(self) -> str:
        """What the budget of this period is called in the stores."""
        return f"{self.holder.name}:{self.period.label}" if self.period else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one request asks of all its holders: one request, and `tokens` at most."""

    id: str
    tokens: int
    shares: tuple[Share, ...]


def holders_of(user: User, key: ApiKey | None) -> tuple[Holder, ...]:
    """Those of the two that have a limit, the user first; () where nothing limits the request.

    A user's limits that are null are the server's defaults; a key's are none.
    """
    own = settings.LLMAPI
    budget, period = user.token_budget, user.token_budget_period
    if budget is None:
        budget, period = own.default_token_budget, own.default_token_budget_period
    limits = (
        first_set(user.requests_per_minute, own.default_requests_per_minute),
        first_set(user.tokens_per_minute, own.default_tokens_per_minute),
        first_set(user.concurrent_requests, own.default_concurrent_requests),
        budget,
    )
    holders = []
    if has_limit(limits):
        holders.append(Holder("user", user.pk, *limits, period))
    if key is not None and has_limit(limits := limits_of(key)):
        holders.append(Holder("key", key.pk, *limits, key.token_budget_period))
    return tuple(holders)


def limits_of(row: Limits) -> tuple[int | None, int | None, int | None, int | None]:
    return (
        row.requests_per_minute,
        row.tokens_per_minute,
        row.concurrent_requests,
        row.token_budget,
    )


def has_limit(limits: tuple[int | None, ...]) -> bool:
    return any(limit is not None for limit in limits)


def first_set(own: int | None, default: int | None) -> int | None:
    return default if own is None else own


def claim(id: str, tokens: int, holders: tuple[Holder, ...]) -> Claim:  # noqa: A002
    """The claim of a request that comes in now."""
    now = timezone.now()
    shares = (
        Share(h, None if h.token_budget is None else period_of(h.budget_period, now))
        for h in holders
    )
    return Claim(id, tokens, tuple(shares))


def period_of(period: str, now: datetime) -> Period:
    """The day or month, in UTC, that `now` is in."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == BudgetPeriod.DAY:
        return Period(f"{day:%Y-%m-%d}", day, day + timedelta(days=1))
    first = day.replace(day=1)
    return Period(f"{first:%Y-%m}", first, (first + timedelta(days=32)).replace(day=1))
