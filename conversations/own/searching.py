"""What users search their own history for: by what an index answers, and by what none does."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from conversations.models import Completion
from conversations.selectors import completions_saying, messages_saying

MOST_WORDS = 8
PLAYGROUND = "playground"
"""In the place of a key's public id: all keys that the playground made."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the history: with all of these words in one message, of this model, by this key (its
    public id, or PLAYGROUND), on these days (UTC, both included). "" and None restrict nothing."""

    words: tuple[str, ...] = ()
    model: str = ""
    key: str = ""
    since: date | None = None
    until: date | None = None
    kind: str = ""

    def limit(self, rows: QuerySet[Any], field: str) -> QuerySet[Any]:
        """By what has an index."""
        if self.key == PLAYGROUND:
            rows = rows.filter(api_key__for_playground=True)
        elif self.key:
            rows = rows.filter(api_key__public_id=self.key)
        if self.since:
            rows = rows.filter(**{f"{field}__gte": _midnight(self.since)})
        if self.until and self.until < date.max:
            rows = rows.filter(**{f"{field}__lt": _midnight(self.until + timedelta(days=1))})
        return rows


def conversations_wanted(wanted: Wanted) -> Q | None:
    """The part of `wanted` that no index answers; None if there is none."""
    condition = Q()
    if wanted.words:
        in_title = Q()
        for word in wanted.words:
            in_title &= Q(title__icontains=word)
        messages = messages_saying(*wanted.words)
        condition &= in_title | Q(Exists(messages.filter(conversation=OuterRef("pk"))))
    if wanted.model:
        asked = Completion.objects.filter(conversation=OuterRef("pk"), model=wanted.model)
        condition &= Q(Exists(asked))
    return condition or None


def completions_wanted(wanted: Wanted) -> Q | None:
    """See `conversations_wanted`."""
    condition = Q()
    for word in wanted.words:
        condition &= completions_saying(word)
    if wanted.model:
        condition &= Q(model=wanted.model)
    if wanted.kind:
        condition &= Q(kind=wanted.kind)
    return condition or None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)
