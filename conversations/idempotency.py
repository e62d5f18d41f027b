"""Idempotency keys: a request that is sent twice is answered once.

A key stands for the request that used it last while that one runs, and for some hours after it was
completed. One that failed, was cancelled or was interrupted sets its key free by its status alone:
there is nothing else to keep, neither at a request's end nor by a sweep.
Plain synchronous functions; database errors (django.db.Error) reach the caller.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from django.conf import settings
from django.utils import timezone

from conversations.errors import AnswerNotKept, KeyInFlight, KeyReused
from conversations.models import Completion, IdempotencyKey
from conversations.storage import rows
from conversations.storage.portions import keys_in_portions
from conversations.storage.writing import write_transaction

Status = Completion.Status
KEYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key as one request uses it: neither the key nor the request can be read from this."""

    digest: str
    fingerprint: str

    @classmethod
    def of(cls, key: bytes, request: bytes) -> Self:
        """`request`: all that must be the same when the key is used again."""
        return cls(hashlib.sha256(key).hexdigest(), hmac.digest(key, request, "sha256").hex())


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered to the request that a key stands for. `answer`: as JSON."""

    completion_id: str
    conversation_id: str | None
    """Of a chat that its owner may go on with by id."""
    model: str
    answer: str


class KeyTaken(Exception):
    """Another request has taken the key since it was found free."""


def answered_before(user_id: int, use: KeyUse) -> Answered | None:
    """The answer that the key stands for. None: the key is free.

    Raises KeyReused, KeyInFlight, AnswerNotKept.
    """
    found = IdempotencyKey.objects.filter(user=user_id, digest=use.digest)
    row = found.select_related("completion__conversation").first()
    if row is None or not stands(row):
        return None
    if not hmac.compare_digest(row.fingerprint, use.fingerprint):
        raise KeyReused
    completion = row.completion
    if completion.status == Status.RUNNING:
        raise KeyInFlight(running_s=(timezone.now() - row.created_at).total_seconds())
    if not row.answer:
        raise AnswerNotKept
    shown = completion.conversation if completion.is_stored else None
    conversation_id = shown.public_id if shown else None
    return Answered(completion.public_id, conversation_id, completion.model, row.answer)


def key_take(user_id: int, use: KeyUse, completion_pk: int, now: datetime) -> None:
    """Has the key stand for a request that was written in the same transaction. Raises KeyTaken,
    upon which nothing of it may be committed."""
    new = IdempotencyKey(
        user_id=user_id,
        digest=use.digest,
        fingerprint=use.fingerprint,
        completion_id=completion_pk,
        created_at=now,
    )
    # Waits for a transaction that has just put the same key, and then finds it there.
    if rows.insert_if_new(new):
        return
    # First the lock, then in a query of its own the status: in one query PostgreSQL would read the
    # status of before the lock.
    held = IdempotencyKey.objects.select_for_update().filter(user=user_id, digest=use.digest)
    row = held.first()
    if row is None:  # taken away as too old this very moment
        raise KeyTaken
    if stands(row):
        raise KeyTaken
    new.pk = row.pk
    new.save(force_update=True)


def stands(row: IdempotencyKey) -> bool:
    """Whether the key stands for its request still."""
    status = row.completion.status
    if status == Status.COMPLETED:
        return row.created_at > kept_since()
    return status == Status.RUNNING


def keys_prune(*, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Takes away the keys that are too old to stand for anything, with the answers kept for them;
    returns how many. A transaction for each batch."""
    old = IdempotencyKey.objects.filter(created_at__lte=kept_since())
    old = old.exclude(completion__status=Status.RUNNING)
    pruned = 0
    for pks in keys_in_portions(old, KEYS_AT_ONCE):
        if should_stop():
            break
        with write_transaction():
            pruned += old.filter(pk__in=pks).delete()[0]
    return pruned


def kept_since() -> datetime:
    """Keys of requests from before this time are free again."""
    return timezone.now() - timedelta(hours=settings.LLMAPI.idempotency_hours)
