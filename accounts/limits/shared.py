"""The counts of all processes together, in Redis: one script to reserve, one to settle.

A running request holds a lease, which its process renews while it lives. What a killed process has
left is given up when the lease is over, by whoever asks next.
"""

import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import redis
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts.limits.holders import Claim, Holder
from accounts.limits.store import WINDOW_S, Check, Reading, Tally, Verdict

logger = logging.getLogger(__name__)

PREFIX = "llmapi:limits:"
TIMEOUT_S = 0.5
"""For a connection, and for an answer: Redis is near, or it is as good as away."""

LEASE_S = 10.0
"""Longer than it takes others to see that a process is dead and to end its rows
(`conversations.services`): then the database knows what they have used."""

RENEW_EVERY_S = 2.0
BUDGET_KEPT_MS = 24 * 3600 * 1000
"""After the end of its period, a budget's counts; requests may still be running."""

FACTS = 7
"""Numbers that reserve.lua returns for each holder."""


class SharedStore:
    """See `Store`; every method may raise redis.RedisError."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = PREFIX,
        window_s: float = WINDOW_S,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        # Once more at a connection that broke: after a restart of Redis all that were open have.
        again = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._redis: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            retry=again,
        )
        self._prefix = prefix
        self._window_ms = round(window_s * 1000)
        self._lease_ms = round(lease_s * 1000)
        self._renew_every_s = renew_every_s
        self._reserve, self._settle, self._renew, self._forget = (
            self._redis.register_script(Path(__file__).with_name(f"{name}.lua").read_text())
            for name in ("reserve", "settle", "renew", "forget")
        )
        self._lock = threading.Lock()
        self._held: dict[str, Claim] = {}
        """Claims whose leases this process renews."""

        self._renewer: threading.Thread | None = None
        self._closing = threading.Event()

    def ping(self) -> None:
        self._redis.ping()

    def close(self) -> None:
        self._closing.set()
        if self._renewer is not None:
            self._renewer.join()
        self._redis.close()

    # ---- the store ------------------------------------------------------------------------------

    def reserve(self, claim: Claim, readings: Mapping[str, Reading]) -> Verdict:
        verdict = self._ask("reserve", claim, readings)
        if verdict.check is Check.PASSED:
            self._hold(claim)
        return verdict

    def look(self, claim: Claim) -> Verdict:
        return self._ask("look", claim, {})

    def settle(self, claim: Claim, tokens: int) -> None:
        self._end(claim, tokens)

    def give_back(self, claim: Claim) -> None:
        self._end(claim, -1)

    def forget(self, budget_keys: Collection[str]) -> None:
        self._forget(keys=[f"{self._prefix}{key}" for key in budget_keys])

    def _ask(self, what: str, claim: Claim, readings: Mapping[str, Reading]) -> Verdict:
        arguments: list[Any] = [what, claim.id, claim.tokens, self._window_ms, self._lease_ms]
        now = timezone.now()
        for share in claim.shares:
            left_ms = 0
            if share.period:
                left_ms = round((share.period.end - now).total_seconds() * 1000)
            reading = readings.get(share.budget_key, Reading(-1, -1))
            arguments += limits_of(share.holder)
            arguments += [max(left_ms, 0) + BUDGET_KEPT_MS, reading.tokens, reading.generation]
        check, index, wait_ms, *facts = map(
            int, self._reserve(keys=self._keys(claim), args=arguments)
        )
        of_each = [facts[i : i + FACTS] for i in range(0, len(facts), FACTS)]
        return Verdict(
            check=Check(check),
            share=index,
            wait_s=wait_ms / 1000,
            tallies=tuple(map(tally_of, of_each)),
            unread={
                share.budget_key: generation
                for share, (*_, used, _, generation) in zip(claim.shares, of_each, strict=True)
                if share.period and used < 0
            },
        )

    def _end(self, claim: Claim, tokens: int) -> None:
        with self._lock:
            self._held.pop(claim.id, None)
        budgets = [int(share.period is not None) for share in claim.shares]
        self._settle(keys=self._keys(claim), args=[claim.id, tokens, *budgets])

    def _keys(self, claim: Claim) -> list[str]:
        keys = []
        for share in claim.shares:
            name = f"{self._prefix}{share.holder.name}"
            keys += [f"{name}:running", f"{name}:window", f"{name}:tokens"]
            keys.append(f"{self._prefix}{share.budget_key}" if share.period else f"{name}:none")
        return keys

    # ---- leases ---------------------------------------------------------------------------------

    def _hold(self, claim: Claim) -> None:
        with self._lock:
            self._held[claim.id] = claim
            if self._renewer is None:
                self._renewer = threading.Thread(
                    target=self._renew_all, name="limits-leases", daemon=True
                )
                self._renewer.start()

    def _renew_all(self) -> None:
        while not self._closing.wait(self._renew_every_s):
            try:
                self.renew()
            except redis.RedisError as error:
                # Whoever asks next finds the same, and says so.
                logger.debug("Leases could not be renewed: %s", error)

    def renew(self) -> None:
        """Say that all running claims live, and put back those that Redis has lost."""
        with self._lock:
            held = [*self._held.values()]
        lost = self._renew_those(held, puts_back=False)
        if lost:
            # Under the lock: what ends just now must not be put back after its end.
            with self._lock:
                still = [claim for claim in lost if claim.id in self._held]
                self._renew_those(still, puts_back=True)

    def _renew_those(self, claims: Collection[Claim], *, puts_back: bool) -> list[Claim]:
        pairs = [
            (f"{self._prefix}{share.holder.name}:running", claim)
            for claim in claims
            for share in claim.shares
            if share.period or share.holder.concurrent_requests is not None
        ]
        if not pairs:
            return []
        ids = [claim.id for _, claim in pairs]
        lost = self._renew(
            keys=[key for key, _ in pairs], args=[self._lease_ms, int(puts_back), *ids]
        )
        return [pairs[place][1] for place in lost]


def limits_of(holder: Holder) -> list[int]:
    """As the script takes them."""
    limits = (
        holder.concurrent_requests,
        holder.requests_per_minute,
        holder.tokens_per_minute,
        holder.token_budget,
    )
    return [-1 if limit is None else limit for limit in limits]


def tally_of(facts: list[int]) -> Tally:
    running, requests, tokens, reset_ms, used, reserved, _ = facts
    return Tally(running, requests, tokens, reset_ms / 1000, max(used, 0), reserved)
