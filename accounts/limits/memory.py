"""The counts of this process alone, exact under its threads."""

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from accounts.limits.holders import Claim, Share
from accounts.limits.store import WINDOW_S, Check, Reading, Tally, Verdict

Refusal = tuple[Check, int, float]

TIDIED_EVERY_S = 3600.0
"""What is known of a budget is worth keeping for a while: to read it again costs a query."""

generations = itertools.count()
"""None comes twice, so that no reading is taken for a later one of counts that were begun anew."""


@dataclass(slots=True)
class Budget:
    """What one period has used. `used` is None until it is read."""

    used: int | None = None
    reserved: dict[str, int] = field(default_factory=dict)
    generation: int = field(default_factory=generations.__next__)

    def read(self, reading: Reading | None) -> None:
        if self.used is None and reading and reading.generation == self.generation:
            self.used = reading.tokens

    def settle(self, claim_id: str, tokens: int) -> None:
        self.reserved.pop(claim_id, None)
        if self.used is None:  # whoever reads just now may have read this one or not
            self.generation = next(generations)
        else:
            self.used += tokens


@dataclass(slots=True)
class Admitted:
    """One request in the window."""

    at: float
    tokens: int


@dataclass(slots=True)
class Counts:
    """Everything that is counted for one holder."""

    running: set[str] = field(default_factory=set)
    window: OrderedDict[str, Admitted] = field(default_factory=OrderedDict)
    """Those of the last minute, the oldest first."""

    tokens: int = 0
    """Sum over the window."""

    budget_key: str = ""
    budget: Budget = field(default_factory=Budget)

    def pass_time(self, now: float) -> None:
        """Drop what has left the window."""
        while self.window:
            claim_id, admitted = next(iter(self.window.items()))
            if admitted.at > now - WINDOW_S:
                return
            self.drop(claim_id)

    def drop(self, claim_id: str) -> None:
        self.tokens -= self.window.pop(claim_id).tokens

    @property
    def is_idle(self) -> bool:
        """Nothing is counted but what a budget has used, which can be read again."""
        return not (self.running or self.window or self.budget.reserved)

    def begin_period(self, budget_key: str) -> None:
        if self.budget_key != budget_key:
            self.budget_key, self.budget = budget_key, Budget()

    def wait_for_requests(self, limit: int, now: float) -> float:
        """Until fewer than `limit` are in the window."""
        if not limit:
            return 0.0
        first = next(itertools.islice(self.window.values(), len(self.window) - limit, None))
        return first.at + WINDOW_S - now

    def wait_for_tokens(self, room: int, now: float) -> float:
        """Until the window holds `room` tokens at most."""
        left = self.tokens
        for admitted in self.window.values():
            left -= admitted.tokens
            if left <= room:
                return admitted.at + WINDOW_S - now
        return 0.0

    def tally(self, now: float) -> Tally:
        newest = next(reversed(self.window.values()), None)
        return Tally(
            running=len(self.running),
            requests=len(self.window),
            tokens=self.tokens,
            reset_s=newest.at + WINDOW_S - now if newest else 0.0,
            used=self.budget.used or 0,
            reserved=sum(self.budget.reserved.values()),
        )


class MemoryStore:
    """See `Store`. `clock`: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}
        self._tidied_at = clock()

    def __len__(self) -> int:
        """Of how many holders anything is kept."""
        return len(self._counts)

    def reserve(self, claim: Claim, readings: Mapping[str, Reading]) -> Verdict:
        with self._lock:
            now = self._clock()
            self._tidy_all(now)
            counts = self._counts_of(claim, now)
            for share, own in zip(claim.shares, counts, strict=True):
                own.budget.read(readings.get(share.budget_key))
            unread = {
                share.budget_key: own.budget.generation
                for share, own in zip(claim.shares, counts, strict=True)
                if share.period and own.budget.used is None
            }
            check, share_index, wait_s = _first_refusal(claim, counts, now)
            if check is Check.PASSED:
                for share, own in zip(claim.shares, counts, strict=True):
                    own.running.add(claim.id)
                    own.window[claim.id] = Admitted(now, claim.tokens)
                    own.tokens += claim.tokens
                    if share.period:
                        own.budget.reserved[claim.id] = claim.tokens
            return Verdict(check, share_index, wait_s, _tallies(counts, now), unread)

    def look(self, claim: Claim) -> Verdict:
        with self._lock:
            now = self._clock()
            tallies = _tallies(self._counts_of(claim, now), now)
            self._tidy(claim)
            return Verdict(Check.PASSED, 0, 0.0, tallies)

    def settle(self, claim: Claim, tokens: int) -> None:
        with self._lock:
            for share in claim.shares:
                own = self._counts.get(share.holder.name, Counts())
                own.running.discard(claim.id)
                if admitted := own.window.get(claim.id):
                    own.tokens += tokens - admitted.tokens
                    admitted.tokens = tokens
                if share.period and own.budget_key == share.budget_key:
                    own.budget.settle(claim.id, tokens)

    def give_back(self, claim: Claim) -> None:
        with self._lock:
            for share in claim.shares:
                own = self._counts.get(share.holder.name, Counts())
                own.running.discard(claim.id)
                own.budget.reserved.pop(claim.id, None)
                if claim.id in own.window:
                    own.drop(claim.id)
            self._tidy(claim)

    def forget(self, budget_keys: Collection[str]) -> None:
        with self._lock:
            for own in self._counts.values():
                if own.budget_key in budget_keys:
                    own.budget.used = None
                    own.budget.generation = next(generations)

    def forget_all(self) -> None:
        """`forget` for every budget: others have counted meanwhile."""
        self.forget([own.budget_key for own in self._counts.values()])

    def _counts_of(self, claim: Claim, now: float) -> list[Counts]:
        found = []
        for share in claim.shares:
            own = self._counts.setdefault(share.holder.name, Counts())
            own.pass_time(now)
            if share.period:
                own.begin_period(share.budget_key)
            found.append(own)
        return found

    def _tidy(self, claim: Claim) -> None:
        """Keep nothing of holders of whom nothing is counted or known."""
        for share in claim.shares:
            own = self._counts.get(share.holder.name)
            if own is not None and own.is_idle and not own.budget_key:
                del self._counts[share.holder.name]

    def _tidy_all(self, now: float) -> None:
        """Once in a while, the same of all holders, whatever is known of their budgets."""
        if now - self._tidied_at < TIDIED_EVERY_S:
            return
        self._tidied_at = now
        for name, own in list(self._counts.items()):
            own.pass_time(now)
            if own.is_idle:
                del self._counts[name]


def _first_refusal(claim: Claim, counts: list[Counts], now: float) -> Refusal:
    """What of the checks, in their order, and which of the holders does not let the claim pass."""
    both = list(enumerate(zip(claim.shares, counts, strict=True)))
    for index, (share, own) in both:
        limit = share.holder.concurrent_requests
        if limit is not None and len(own.running) >= limit:
            return Check.CONCURRENT, index, 0.0
    for index, (share, own) in both:
        limit = share.holder.requests_per_minute
        if limit is not None and len(own.window) >= limit:
            return Check.REQUESTS, index, own.wait_for_requests(limit, now)
    for index, (share, own) in both:
        limit = share.holder.tokens_per_minute
        if limit is not None and own.tokens + claim.tokens > limit:
            return Check.TOKENS, index, own.wait_for_tokens(limit - claim.tokens, now)
    if any(share.period and own.budget.used is None for _, (share, own) in both):
        return Check.UNREAD, 0, 0.0
    for index, (share, own) in both:
        if share.period and _is_over_budget(share, own, claim.tokens):
            return Check.BUDGET, index, 0.0
    return Check.PASSED, 0, 0.0


def _is_over_budget(share: Share, own: Counts, tokens: int) -> bool:
    used = (own.budget.used or 0) + sum(own.budget.reserved.values())
    return used + tokens > (share.holder.token_budget or 0)


def _tallies(counts: list[Counts], now: float) -> tuple[Tally, ...]:
    return tuple(own.tally(now) for own in counts)
