"""What a user finds of their own history: lists, searches and the words around what was found.
Nothing of anybody else is in reach of these functions. Nothing here writes."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet, Subquery, TextField, Value
from django.db.models.functions import Cast, Greatest, Left, Lower, StrIndex, Substr

from accounts.models import ApiKey
from conversations import selectors
from conversations.models import Completion, Conversation, Message
from conversations.storage.jsontext import as_stored

MOST_WORDS = 8
PLAYGROUND = "playground"
"""In the place of a key's public id: all keys that the playground made."""

PASSAGE = 220
EXCERPT = 160


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


def own_conversations(user: Any) -> QuerySet[Conversation]:
    return Conversation.objects.filter(user=user)


def own_completions(user: Any) -> QuerySet[Completion]:
    """Requests whose text is there; of the others the usage tells."""
    return Completion.objects.filter(user=user, erased_at=None)


def conversations_wanted(wanted: Wanted) -> Q | None:
    """The part of `wanted` that no index answers; None if there is none."""
    condition = Q()
    if wanted.words:
        in_title = Q()
        for word in wanted.words:
            in_title &= Q(title__icontains=word)
        messages = messages_saying_all(wanted.words)
        condition &= in_title | Q(Exists(messages.filter(conversation=OuterRef("pk"))))
    if wanted.model:
        asked = Completion.objects.filter(conversation=OuterRef("pk"), model=wanted.model)
        condition &= Q(Exists(asked))
    return condition or None


def completions_wanted(wanted: Wanted) -> Q | None:
    """See `conversations_wanted`."""
    condition = Q()
    for word in wanted.words:
        condition &= selectors.completions_saying(word)
    if wanted.model:
        condition &= Q(model=wanted.model)
    if wanted.kind:
        condition &= Q(kind=wanted.kind)
    return condition or None


def messages_saying_all(words: Collection[str]) -> QuerySet[Message]:
    """Messages with every one of these words."""
    messages = Message.objects.alias(content_text=Cast("content", TextField()))
    for word in words:
        messages = messages.filter(content_text__icontains=as_stored(word))
    return messages


def passages(conversation_pks: Collection[int], words: tuple[str, ...]) -> dict[int, str]:
    """For each of these conversations, what stands around the first of the words in its first
    message with all of them; two queries. Without those whose title alone has them."""
    if not words:
        return {}
    first = messages_saying_all(words).filter(conversation=OuterRef("pk")).order_by("pk")
    hits = dict(
        Conversation.objects.filter(pk__in=conversation_pks)
        .annotate(hit=Subquery(first.values("pk")[:1]))
        .values_list("hit", "pk")
    )
    hits.pop(None, None)
    text = Cast("content", TextField())
    at = StrIndex(Lower(text), Value(as_stored(words[0]).lower()))
    rows = Message.objects.filter(pk__in=hits).values_list(
        "pk", Substr(text, Greatest(at - PASSAGE // 3, Value(1)), PASSAGE)
    )
    return {
        hits[pk]: around(fragment) + "…"
        if len(fragment) == PASSAGE
        else around(fragment).rstrip(']"')
        for pk, fragment in rows
    }


def with_excerpts(completions: QuerySet[Completion]) -> QuerySet[Completion]:
    """With the beginnings of prompts and of last messages, as stored; nothing more of the text."""
    return completions.annotate(
        prompt_start=Left(Cast("content__prompt", TextField()), EXCERPT),
        head_start=Left(Cast("head__content", TextField()), EXCERPT),
    )


def excerpt(completion: Any) -> str:
    """Of a completion `with_excerpts`: the first words of what was asked."""
    stored = completion.head_start or completion.prompt_start or ""
    line = around(stored.lstrip('["').replace('", "', " / "), is_start=True)
    return f"{line}…" if len(stored) == EXCERPT else line.rstrip(']"')


def models_of(user: Any) -> list[str]:
    """Names of the models of the user's last 1,000 requests: a filter's choices."""
    recent = Completion.objects.filter(user=user).order_by("-created_at")
    return sorted(set(recent.values_list("model", flat=True)[:1000]))


def keys_of(user: Any) -> list[ApiKey]:
    """All that the user ever had, without the playground's."""
    return list(ApiKey.objects.filter(user=user, for_playground=False).order_by("name", "pk"))


# ---- texts ---------------------------------------------------------------------------------------


def around(fragment: str, is_start: bool = False) -> str:
    """A piece of a stored JSON string as a line of text, without what the cut left of words and
    escapes."""
    line = " ".join(re.sub(r"\\u[0-9a-fA-F]{0,3}$|\\$", "", fragment).split())
    line = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _unescaped, line)
    if line.startswith('"') or is_start:
        line = line.removeprefix('"')
    else:
        head, space, rest = line.partition(" ")
        line = "… " + (rest if space and len(head) < 20 else line)
    return line


def highlighted(text: str, words: Collection[str]) -> Iterator[tuple[str, bool]]:
    """The text in pieces, and whether each is one of the words."""
    if not words:
        yield text, False
        return
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")", re.IGNORECASE)
    for index, piece in enumerate(pattern.split(text)):
        if piece:
            yield piece, index % 2 == 1


def _unescaped(match: re.Match[str]) -> str:
    letter = match[1]
    if len(letter) == 5:
        return chr(int(letter[1:], 16))
    return " " if letter in "nrtbf" else letter


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)
