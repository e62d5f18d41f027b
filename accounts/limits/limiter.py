"""Reserved before, settled after: what the door asks for every request that somebody's limits
bound."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import redis

from accounts.limits.headers import headers_of
from accounts.limits.holders import Claim, Holder, claim
from accounts.limits.memory import MemoryStore
from accounts.limits.refusals import refusal_of
from accounts.limits.shared import SharedStore
from accounts.limits.store import Check, Reading, Store, Verdict

logger = logging.getLogger(__name__)

T = TypeVar("T")
End = Callable[[Store], None]
ReadUsage = Callable[[Holder, datetime], int]
"""The tokens of a holder's requests that began at this time or later and have ended."""

ASK_AGAIN_S = 2.0
"""After Redis did not answer, so long nobody waits for it."""

MOST_OWED = 10_000

READINGS = 5
"""So often a budget is read at most before a reading is taken in which a request that ended
meanwhile may be missing."""


@dataclass(slots=True)
class Reservation:
    """What an accepted request holds until it is settled or given back, once."""

    claim: Claim
    store: Store
    headers: dict[str, str]
    _open: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> bool:
        """False if it was closed before."""
        return self._open.acquire(blocking=False)


class Limiter:
    """One per process: `limiter` below. Its methods may block, on Redis or the database.

    With Redis (`open`) all processes count together. While Redis does not answer, this one goes on
    with its own counts: a limit then holds for each process, and no request fails for it.
    """

    def __init__(self) -> None:
        self._own = MemoryStore()
        self._shared: SharedStore | None = None
        self._lock = threading.Lock()
        self._is_away = False
        self._ask_from = 0.0
        self._uncounted: set[str] = set()
        """Budgets of which Redis does not know all that was used."""

        self._owed: deque[End] = deque(maxlen=MOST_OWED)
        """Ends that Redis may not have heard of. It takes them twice without harm."""

    def open(self, store: SharedStore | None) -> None:
        """Begin with nothing counted: in this store, or in this process alone."""
        self.close()
        self._own, self._shared = MemoryStore(), store
        self._is_away, self._ask_from = False, 0.0
        self._uncounted.clear()
        self._owed.clear()

    def close(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def reserve(
        self, holders: tuple[Holder, ...], request_id: str, tokens: int, read_usage: ReadUsage
    ) -> Reservation:
        """Count a request of `tokens` at most. Raises RateLimitExceeded or InsufficientQuota, and
        then nothing was counted; and what `read_usage` raises."""
        asked = claim(request_id, tokens, holders)

        def ask(readings: Mapping[str, Reading]) -> tuple[Store, Verdict]:
            # Redis may have counted it, and only the answer was late.
            return self._ask(
                lambda store: store.reserve(asked, readings),
                otherwise=lambda store: store.give_back(asked),
            )

        store, verdict = ask({})
        for _ in range(READINGS):
            if verdict.check is not Check.UNREAD:
                break
            readings = {
                share.budget_key: Reading(
                    read_usage(share.holder, share.period.start), verdict.unread[share.budget_key]
                )
                for share in asked.shares
                if share.period and share.budget_key in verdict.unread
            }
            store, verdict = ask(readings)
        headers = headers_of(holders, verdict.tallies)
        if verdict.check is Check.PASSED:
            return Reservation(asked, store, headers)
        raise refusal_of(asked, verdict, headers)

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """The request has ended, and its row says so: it used `tokens`."""
        if reservation.close():
            self._end(reservation, lambda store: store.settle(reservation.claim, tokens))

    def give_back(self, reservation: Reservation) -> None:
        """The request was not accepted after all."""
        if reservation.close():
            self._end(reservation, lambda store: store.give_back(reservation.claim))

    def headers(self, holders: tuple[Holder, ...]) -> dict[str, str]:
        """The x-ratelimit headers of an answer for which nothing was reserved."""
        if not holders:
            return {}
        return headers_of(holders, self.look(holders).tallies)

    def look(self, holders: tuple[Holder, ...]) -> Verdict:
        """How much is used of these holders' limits."""
        asked = claim("", 0, holders)
        return self._ask(lambda store: store.look(asked))[1]

    @property
    def shared_is_up(self) -> bool | None:
        """Whether Redis answered when it was last asked; None: nobody counts there."""
        return None if self._shared is None else not self._is_away

    # ---- Redis, or not --------------------------------------------------------------------------

    def _ask(self, question: Callable[[Store], T], otherwise: End | None = None) -> tuple[Store, T]:
        """The answer, and who gave it. `otherwise`: what Redis is told when it is back, if it is
        asked and does not answer."""
        shared = self._shared
        if shared is not None and self._may_ask():
            try:
                self._catch_up(shared)
                answer = question(shared)
            except redis.RedisError as error:
                if otherwise is not None:
                    self._owed.append(otherwise)
                self._went_away(error)
            else:
                self._is_back()
                return shared, answer
        return self._own, question(self._own)

    def _end(self, reservation: Reservation, end: End) -> None:
        try:
            end(reservation.store)
        except redis.RedisError as error:
            self._owed.append(end)
            self._went_away(error)
        if self._shared is not None and reservation.store is self._own:
            with self._lock:
                self._uncounted |= {s.budget_key for s in reservation.claim.shares if s.period}

    def _may_ask(self) -> bool:
        """Of the requests that come while Redis is away, one in a while finds out whether it still
        is."""
        with self._lock:
            if not self._is_away:
                return True
            if time.monotonic() < self._ask_from:
                return False
            self._ask_from = time.monotonic() + ASK_AGAIN_S
            return True

    def _catch_up(self, shared: SharedStore) -> None:
        """Tell Redis what has ended while it was away, and have read again what was used
        meanwhile."""
        if not (self._owed or self._uncounted):
            return
        with self._lock:
            owed, keys = [*self._owed], {*self._uncounted}
            self._owed.clear()
            self._uncounted.clear()
        try:
            for end in owed:
                end(shared)
            if keys:
                shared.forget(keys)
        except redis.RedisError:
            with self._lock:
                self._owed.extend(owed)
                self._uncounted |= keys
            raise

    def _went_away(self, error: Exception) -> None:
        with self._lock:
            was_away, self._is_away = self._is_away, True
            self._ask_from = time.monotonic() + ASK_AGAIN_S
        if not was_away:
            logger.warning(
                "Redis (REDIS_URL) does not answer; until it does, this process counts for its "
                "own requests alone: %s",
                error,
            )

    def _is_back(self) -> None:
        with self._lock:
            was_away, self._is_away = self._is_away, False
        if was_away:
            self._own.forget_all()  # other processes have used of the budgets since
            logger.warning("Redis answers again; limits hold for all processes together")


limiter = Limiter()
