"""From a store's verdict to the error that the client sees: a sentence for people, and a header for
programs that have sentences of their own, as the playground has."""

import math

from accounts.errors import ApiError, InsufficientQuota, RateLimitExceeded
from accounts.limits.holders import Claim, Holder, Share
from accounts.limits.store import Check, Tally, Verdict
from accounts.models import BudgetPeriod

HEADER = "x-llmapi-limit"
SLOT_WAIT_S = 1
BUSY_WAIT_S = 5
LONGEST_WAIT_S = 120
"""Past that the OpenAI SDKs would not wait at all."""


def refusal_of(claim: Claim, verdict: Verdict, headers: dict[str, str]) -> ApiError:
    """The 429 for a verdict that let nothing pass; `headers` go with it."""
    share, tally = claim.shares[verdict.share], verdict.tallies[verdict.share]
    holder = share.holder
    match verdict.check:
        case Check.CONCURRENT:
            error = _too_many_at_once(holder)
        case Check.REQUESTS:
            error = _too_many_requests(holder, tally, verdict.wait_s)
        case Check.TOKENS:
            error = _too_many_tokens(holder, tally, claim.tokens, verdict.wait_s)
        case Check.BUDGET if share.period:
            ends = f"{share.period.end:%Y-%m-%d %H:%M} UTC"
            error = _over_budget(holder, tally, claim.tokens, ends)
        case _:  # a budget that others keep using while it is read
            error = RateLimitExceeded(
                "The token budget is being counted. Try again in a moment.",
                kind="tokens",
                retry_after_s=SLOT_WAIT_S,
            )
    error.headers |= headers | facts_of(verdict.check, share, tally, claim.tokens)
    return error


def facts_of(check: Check, share: Share, tally: Tally, asked: int) -> dict[str, str]:
    """The header that tells what refused a claim: `tokens_per_minute; whose=key; limit=1000;
    used=900; asked=101`."""
    holder = share.holder
    match check:
        case Check.CONCURRENT:
            what, limit, used = "concurrent_requests", holder.concurrent_requests, tally.running
        case Check.REQUESTS:
            what, limit, used = "requests_per_minute", holder.requests_per_minute, tally.requests
        case Check.TOKENS:
            what, limit, used = "tokens_per_minute", holder.tokens_per_minute, tally.tokens
        case Check.BUDGET:
            what, limit, used = "token_budget", holder.token_budget, tally.used
        case _:
            return {}
    whose = "account" if holder.kind == "user" else "key"
    facts = {"whose": whose, "limit": limit, "used": used}
    if check in (Check.TOKENS, Check.BUDGET):
        facts["asked"] = asked
    if check is Check.BUDGET and share.period:
        facts |= {"reserved": tally.reserved, "until": int(share.period.end.timestamp())}
    return {HEADER: "; ".join([what, *(f"{name}={value}" for name, value in facts.items())])}


def _too_many_at_once(holder: Holder) -> ApiError:
    limit = holder.concurrent_requests
    if not limit:
        return _nothing_allowed(holder, "requests")
    return RateLimitExceeded(
        f"Limit on requests at once reached for this {holder.noun}: limit {limit}, running "
        f"{limit}. Wait until one has ended.",
        kind="requests",
        retry_after_s=SLOT_WAIT_S,
    )


def _too_many_requests(holder: Holder, tally: Tally, wait_s: float) -> ApiError:
    if not holder.requests_per_minute:
        return _nothing_allowed(holder, "requests")
    seconds = in_seconds(wait_s)
    return RateLimitExceeded(
        f"Rate limit reached for this {holder.noun} on requests per minute: limit "
        f"{holder.requests_per_minute}, used {tally.requests}, requested 1. "
        f"Try again in {seconds} s.",
        kind="requests",
        retry_after_s=seconds,
    )


def _too_many_tokens(holder: Holder, tally: Tally, asked: int, wait_s: float) -> ApiError:
    limit = holder.tokens_per_minute
    if not limit:
        return _nothing_allowed(holder, "tokens")
    if asked > limit:
        return RateLimitExceeded(
            f"Request too large for this {holder.noun} on tokens per minute: limit {limit}, "
            f"requested {asked}, which are the prompt and the longest answer that it asks for. "
            "Send a shorter prompt, or ask for a shorter answer (max_tokens) or for fewer (n).",
            kind="tokens",
        )
    seconds = in_seconds(wait_s)
    return RateLimitExceeded(
        f"Rate limit reached for this {holder.noun} on tokens per minute: limit {limit}, used "
        f"{tally.tokens}, requested {asked}. Try again in {seconds} s.",
        kind="tokens",
        retry_after_s=seconds,
    )


def _over_budget(holder: Holder, tally: Tally, asked: int, ends: str) -> ApiError:
    budget = holder.token_budget or 0
    period = "today" if holder.budget_period == BudgetPeriod.DAY else "this month"
    left = budget - tally.used
    if left >= asked:
        return RateLimitExceeded(
            f"What is left of this {holder.noun}'s token budget is reserved by its running "
            f"requests: {left} tokens are left, {tally.reserved} of them reserved, requested "
            f"{asked}. Wait until one has ended.",
            kind="tokens",
            retry_after_s=BUSY_WAIT_S,
        )
    sentence = (
        f"The token budget of this {holder.noun} for {period} does not allow this: budget "
        f"{budget}, used {tally.used}, requested {asked}. It begins anew on {ends}."
    )
    if left > 0:
        sentence += f" Until then, ask for {left} tokens at most, prompt and answer (max_tokens)."
    return InsufficientQuota(sentence)


def _nothing_allowed(holder: Holder, what: str) -> ApiError:
    return RateLimitExceeded(
        f"The limits of this {holder.noun} allow no {what}. Ask the operator of this server.",
        kind=what,
    )


def in_seconds(wait_s: float) -> int:
    return min(max(math.ceil(wait_s), 1), LONGEST_WAIT_S)
