"""What a store is asked and what it answers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from accounts.limits.holders import Claim

WINDOW_S = 60.0
"""Of the limits per minute: what was admitted within so many seconds counts."""


class Check(IntEnum):
    """What refused a claim, in the order in which it is looked at. The numbers are the scripts'."""

    PASSED = 0
    CONCURRENT = 1
    REQUESTS = 2
    TOKENS = 3
    BUDGET = 4
    UNREAD = 5
    """Nothing: what a budget's period has used is not known yet, and must be read first."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How much of one holder's limits is used, this claim included if it passed."""

    running: int
    requests: int
    """In the last minute."""

    tokens: int
    """In the last minute; of running requests, what is reserved."""

    reset_s: float
    """Until nothing of the last minute counts any more."""

    used: int
    """Of the budget, by requests that have ended."""

    reserved: int
    """Of the budget, by running ones."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a claim passed. If not, nothing of it was counted."""

    check: Check
    share: int
    """Which of the claim's shares was refused."""

    wait_s: float
    """Until the window may let it in; 0 where no window is in the way."""

    tallies: tuple[Tally, ...]
    """One for each share."""

    unread: Mapping[str, int] = field(default_factory=dict)
    """With `UNREAD`: budget key -> the generation that what is read belongs to."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the requests of a budget's period that have ended have used, by the database.

    A request that ends while that is read would be counted twice or not at all; then the budget's
    generation has changed, the reading is not taken, and it is read again.
    """

    tokens: int
    generation: int


class Store(Protocol):
    """Counts. Each method is atomic over all holders of a claim."""

    def reserve(self, claim: Claim, readings: Mapping[str, Reading]) -> Verdict:
        """Count the claim if all of its holders let it pass."""

    def look(self, claim: Claim) -> Verdict:
        """The tallies; counts nothing."""

    def settle(self, claim: Claim, tokens: int) -> None:
        """The request has ended: its tokens were so many."""

    def give_back(self, claim: Claim) -> None:
        """The request was not accepted after all: as if it had never been."""

    def forget(self, budget_keys: Collection[str]) -> None:
        """Have what these budgets' periods have used read again."""
