"""The requests under way: how many there may be, how many of one user, and how long they last."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from accounts.errors import ApiError, RateLimitExceeded
from llmapi.errors import RETRY_AFTER_S, Overloaded
from llmapi.lanes import STRANGERS

WINDOW_S = 60.0
LONGEST_WAIT_S = 120
"""Past that the OpenAI SDKs would not wait at all."""


class Pending:
    """From when a request is read until its end is written.

    One user may have as many as there are places free for others: alone half of all, beside
    another who has as many a third, and so on. So whoever comes finds a place, however many another
    has sent over however many keys. Entered on the event loop, and on threads when a key turns out
    to be somebody's; hence the lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._total = 0
        self._busy_since = 0.0
        self._ends: deque[float] = deque(maxlen=4096)

    def __len__(self) -> int:
        return self._total

    def enter(self, lane: str, most: int, most_each: int | None = None) -> "Ticket":
        """A place among `most`. `most_each`: of one lane; None: as many as are free.

        Raises Overloaded: all are taken; RateLimitExceeded: the lane has its part.
        """
        with self._lock:
            if self._total >= most:
                raise Overloaded(
                    f"The server is busy with {self._total} requests.", retry_after_s=self._wait_s()
                )
            ticket = Ticket(self, lane, most, most_each)
            self._check_part(ticket, lane, others=self._total)
            if not self._total:
                self._busy_since = self._clock()
                self._ends.clear()
            self._total += 1
            self._counts[lane] += 1
            return ticket

    def _check_part(self, ticket: "Ticket", lane: str, others: int) -> None:
        """`others`: all that are here but this one."""
        count, part = self._counts[lane], ticket.most_each
        if count >= (ticket.most - others if part is None else part):
            raise self._too_many(lane, count)

    def _too_many(self, lane: str, count: int) -> ApiError:
        wait_s = self._wait_s()
        if lane == STRANGERS:
            return Overloaded(
                "The server is busy with requests whose keys it has not seen lately.",
                retry_after_s=wait_s,
            )
        return RateLimitExceeded(
            f"Too many requests of this account are under way: {count}. Wait until some of them "
            "have ended.",
            kind="requests",
            retry_after_s=wait_s,
        )

    def move(self, ticket: "Ticket", lane: str) -> None:
        with self._lock:
            if not ticket.is_left and lane != ticket.lane:
                self._check_part(ticket, lane, others=self._total - 1)
                self._leave_lane(ticket.lane)
                self._counts[lane] += 1
                ticket.lane = lane

    def leave(self, ticket: "Ticket", *, was_accepted: bool) -> None:
        with self._lock:
            ticket.is_left = True
            self._total -= 1
            self._leave_lane(ticket.lane)
            if was_accepted:
                self._ends.append(self._clock())

    def _leave_lane(self, lane: str) -> None:
        self._counts[lane] -= 1
        if not self._counts[lane]:
            del self._counts[lane]

    def _wait_s(self) -> int:
        """Until all that are here now will have ended, if it goes on as in the last minute."""
        now = self._clock()
        while self._ends and self._ends[0] < now - WINDOW_S:
            self._ends.popleft()
        watched_s = min(now - self._busy_since, WINDOW_S)
        if self._ends and watched_s > 0:
            estimate = self._total * watched_s / len(self._ends)
        else:  # none has ended yet: not soon, then
            estimate = max(now - self._busy_since, RETRY_AFTER_S)
        return min(max(math.ceil(estimate), 1), LONGEST_WAIT_S)


class Ticket:
    """One place that was taken; it is left once."""

    def __init__(self, pending: Pending, lane: str, most: int, most_each: int | None) -> None:
        self._pending = pending
        self.lane = lane
        self.most = most
        self.most_each = most_each
        self.is_left = False
        """Its client may leave while a thread still works on it."""

    def move(self, lane: str) -> None:
        """It turned out whose it is. Raises RateLimitExceeded: the lane has its part already."""
        self._pending.move(self, lane)

    def leave(self, *, was_accepted: bool) -> None:
        """`was_accepted`: its end tells how fast requests are worked off."""
        self._pending.leave(self, was_accepted=was_accepted)


pending = Pending()
