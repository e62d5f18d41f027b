"""The words around what was found, and the first words of what was asked, as texts are stored."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery, TextField, Value
from django.db.models.functions import Cast, Greatest, Left, Lower, StrIndex, Substr

from conversations.models import Completion, Conversation, Message
from conversations.selectors import messages_saying
from conversations.storage.jsontext import as_stored

PASSAGE = 220
EXCERPT = 160
"""Characters of a stored text that are read for each."""


def passages(conversation_pks: Collection[int], words: tuple[str, ...]) -> dict[int, str]:
    """For each of these conversations, what stands around the first of the words in its first
    message with all of them; two queries. Without those whose title alone has them."""
    if not words:
        return {}
    first = messages_saying(*words).filter(conversation=OuterRef("pk")).order_by("pk")
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
