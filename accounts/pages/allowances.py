"""How much of its limits an account or a key has used, for its page."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from accounts.limits.holders import Holder, holders_of, period_of
from accounts.limits.limiter import limiter
from accounts.models import ApiKey, BudgetPeriod, User


@dataclass(frozen=True)
class Allowance:
    """One limit, and what is used of it now."""

    title: Any
    used: int
    limit: int

    @property
    def tone(self) -> str:
        """The colour of its meter."""
        if self.used >= self.limit:
            return "bad"
        return "warn" if self.used * 5 >= self.limit * 4 else ""


def account_holder(user: User) -> Holder | None:
    """The limits of the account, the server's defaults among them; None: it has none."""
    return next(iter(holders_of(user, None)), None)


def key_holder(key: ApiKey) -> Holder | None:
    """The limits of this key alone."""
    return next((holder for holder in holders_of(key.user, key) if holder.kind == "key"), None)


def allowances(holder: Holder | None) -> list[Allowance]:
    """Those that the holder has; [] if it has none."""
    if holder is None:
        return []
    (tally,) = limiter.look((holder,)).tallies
    counts = [
        (_("Requests per minute"), tally.requests, holder.requests_per_minute),
        (_("Tokens per minute"), tally.tokens, holder.tokens_per_minute),
        (_("Requests at once"), tally.running, holder.concurrent_requests),
    ]
    if holder.token_budget is not None:
        # From the rows: the store knows what was used only once somebody has asked for more.
        read: Callable[[Holder, datetime], int] = import_string(settings.TOKENS_USED)
        used = read(holder, period_of(holder.budget_period, timezone.now()).start)
        counts.append(
            (budget_title(holder.budget_period), used + tally.reserved, holder.token_budget)
        )
    return [Allowance(title, used, limit) for title, used, limit in counts if limit is not None]


def budget_title(period: str) -> str:
    return _("Tokens today") if period == BudgetPeriod.DAY else _("Tokens this month")
