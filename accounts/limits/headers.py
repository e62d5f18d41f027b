"""The x-ratelimit headers, as OpenAI has them."""

import math
from collections.abc import Iterable, Sequence

from accounts.limits.holders import Holder
from accounts.limits.store import Tally


def headers_of(holders: Sequence[Holder], tallies: Sequence[Tally]) -> dict[str, str]:
    """Of requests and of tokens per minute: those of the holder that has least left. Nothing for
    what has no limit."""
    pairs = list(zip(holders, tallies, strict=True))
    requests = [(h.requests_per_minute, t.requests, t.reset_s) for h, t in pairs]
    tokens = [(h.tokens_per_minute, t.tokens, t.reset_s) for h, t in pairs]
    return {**_headers("requests", requests), **_headers("tokens", tokens)}


def _headers(what: str, counts: Iterable[tuple[int | None, int, float]]) -> dict[str, str]:
    left = [
        (max(limit - used, 0), limit, reset_s if used else 0.0)
        for limit, used, reset_s in counts
        if limit is not None
    ]
    if not left:
        return {}
    remaining, limit, reset_s = min(left)
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(remaining),
        f"x-ratelimit-reset-{what}": duration(reset_s),
    }


def duration(seconds: float) -> str:
    """`1s`, `6m0s`: whole seconds, rounded up."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
