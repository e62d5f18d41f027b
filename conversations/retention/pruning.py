"""What is too old to be kept: texts first, the rows that count as usage later.

A conversation is as old as its last turn and goes as a whole; other requests are as old as
themselves. What is running is never touched. Everything is done in batches, each a transaction of
its own, so that others write in between.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.models import AuditEvent
from conversations.errors import ConversationBusy
from conversations.models import Completion, Conversation, UsageHour
from conversations.retention.erasing import (
    COMPLETIONS_AT_ONCE,
    CONVERSATIONS_AT_ONCE,
    completions_erase,
    trees_erase,
)
from conversations.storage.portions import keys_in_portions
from conversations.storage.writing import write_transaction
from conversations.usage.folding import GROUPS_OF_DAYS, day_of


@dataclass(slots=True)
class Pruned:
    """How many of each are gone, or would be.

    texts: of requests without a conversation. requests: rows that counted as usage. sums: rows of
    usage by the hour and by the day.
    """

    conversations: int = 0
    texts: int = 0
    requests: int = 0
    sums: int = 0

    def __bool__(self) -> bool:
        return bool(self.conversations or self.texts or self.requests or self.sums)

    def __str__(self) -> str:
        return (
            f"{self.conversations} conversations and the texts of {self.texts} other requests; "
            f"the usage of {self.requests} requests and {self.sums} sums by the hour or day"
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Texts and usage from before these times are too old; None: kept for ever."""

    text: datetime | None
    usage: datetime | None

    def __bool__(self) -> bool:
        return self.text is not None or self.usage is not None


def limits_now() -> Limits:
    """As LLMAPI_KEEP_TEXT_DAYS and LLMAPI_KEEP_USAGE_DAYS say."""

    def days_ago(days: int | None) -> datetime | None:
        return None if days is None else timezone.now() - timedelta(days=days)

    usage = days_ago(settings.LLMAPI.keep_usage_days)
    return Limits(
        text=days_ago(settings.LLMAPI.keep_text_days),
        # Whole days, for one that lost some of its requests could not be folded anew.
        usage=None if usage is None else day_of(usage),
    )


def prune(limits: Limits, *, should_stop: Callable[[], bool] = lambda: False) -> Pruned:
    """Takes away what is too old, and writes into the audit log how much that was, if anything."""
    pruned = Pruned()
    try:
        for kind, count in _prunings(limits):
            setattr(pruned, kind, getattr(pruned, kind) + count)
            if should_stop():
                break
    finally:
        if pruned:
            audit.record(AuditEvent.Action.PRUNE, "old rows", detail=asdict(pruned))
    return pruned


def would_prune(limits: Limits) -> Pruned:
    """What `prune` would take away now."""
    return Pruned(
        conversations=_old_trees(limits.text).count(),
        texts=_old_texts(limits.text).count(),
        # Those whose text goes in the same run are pruned too.
        requests=_old_requests(limits.usage).exclude(erased_at=None).count()
        + _old_texts(limits.usage).count()
        + _old_requests(limits.usage).filter(conversation__in=_old_trees(limits.text)).count(),
        sums=sum(rows.count() for rows in _old_sums(limits.usage)),
    )


def _prunings(limits: Limits) -> Iterator[tuple[str, int]]:
    """(field of `Pruned`, how many) for each batch."""
    trees = _old_trees(limits.text)
    for pks in keys_in_portions(trees, CONVERSATIONS_AT_ONCE):
        # One that went on a moment ago waits, with its neighbours, for next time.
        with suppress(ConversationBusy):
            yield "conversations", trees_erase(trees.filter(pk__in=pks))
    texts = _old_texts(limits.text)
    for pks in keys_in_portions(texts, COMPLETIONS_AT_ONCE):
        yield "texts", completions_erase(texts.filter(pk__in=pks))
    # A text that is kept longer, as of a chat that goes on, keeps its row.
    requests = _old_requests(limits.usage).exclude(erased_at=None)
    for pks in keys_in_portions(requests, COMPLETIONS_AT_ONCE):
        yield "requests", _delete(requests.filter(pk__in=pks))
    for sums in _old_sums(limits.usage):
        for pks in keys_in_portions(sums, COMPLETIONS_AT_ONCE):
            yield "sums", _delete(sums.filter(pk__in=pks))


def _delete(rows: QuerySet[Any]) -> int:
    with write_transaction():
        return rows.delete()[0]


def _old_trees(before: datetime | None) -> QuerySet[Conversation]:
    if before is None:
        return Conversation.objects.none()
    running = Completion.objects.filter(
        conversation=OuterRef("pk"), status=Completion.Status.RUNNING
    )
    return Conversation.objects.filter(~Exists(running), updated_at__lt=before)


def _old_requests(before: datetime | None) -> QuerySet[Completion]:
    if before is None:
        return Completion.objects.none()
    old = Completion.objects.filter(created_at__lt=before)
    return old.exclude(status=Completion.Status.RUNNING)


def _old_texts(before: datetime | None) -> QuerySet[Completion]:
    return _old_requests(before).filter(erased_at=None, conversation=None)


def _old_sums(before: datetime | None) -> list[QuerySet[Any]]:
    if before is None:
        return []
    days = [model.objects.filter(day__lt=before) for model in GROUPS_OF_DAYS]
    return [*days, UsageHour.objects.filter(hour__lt=before)]
