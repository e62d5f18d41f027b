"""What a request holds of its owner's limits: reserved before its row is written, settled with
it."""

from datetime import datetime

from accounts.limits.holders import Holder
from accounts.limits.limiter import Reservation, limiter
from conversations.processes.journal import Ended, journal
from conversations.selectors import tokens_used_since
from conversations.services import CompletionEnd, completion_finish


def reserve(
    holders: tuple[Holder, ...], completion_id: str, most_tokens: int
) -> Reservation | None:
    """None: no limit bounds the request. Raises RateLimitExceeded, InsufficientQuota."""
    if not holders:
        return None
    return limiter.reserve(holders, completion_id, most_tokens, tokens_used)


def give_back(reservation: Reservation | None) -> None:
    """The request was not accepted after all."""
    if reservation is not None:
        limiter.give_back(reservation)


def finish_and_settle(
    completion_pk: int, end: CompletionEnd, reservation: Reservation | None
) -> None:
    """Writes the end of a request, and settles what it held whether or not the database takes it: a
    slot waits for nobody. May be called again. Raises what `completion_finish` raises."""
    try:
        completion_finish(completion_pk, end)
    finally:
        if reservation is not None:
            limiter.settle(reservation, end.prompt_tokens + end.completion_tokens)


def append_and_settle(ended: Ended, reservation: Reservation | None) -> None:
    """The same with the journal. Raises OSError."""
    try:
        journal.append(ended)
    finally:
        if reservation is not None:
            limiter.settle(reservation, ended.end.prompt_tokens + ended.end.completion_tokens)


def tokens_used(holder: Holder, start: datetime) -> int:
    if holder.kind == "user":
        return tokens_used_since(start, user_id=holder.pk)
    return tokens_used_since(start, api_key_id=holder.pk)
