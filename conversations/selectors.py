"""Reads of the history, for the pages that show it. Nothing here writes."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Sum, TextField
from django.db.models.functions import Cast

from conversations.models import Completion, CompletionContent, Conversation, Message
from conversations.storage.jsontext import as_stored
from conversations.tree.said import readable

# Nobody turns two hundred pages: lists and their filters go no deeper than this.
DEEPEST = 10_000
# Texts have no index: a search reads those of so many rows, in a few tenths of a second.
SEARCHED = 5_000


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """What a list says about one conversation. Tokens: sums over its requests."""

    messages: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    models: tuple[str, ...] = ()
    last_status: str = ""


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One line of a transcript: a message, or a request that has no message (yet).

    level: how many branchings lie above it. version, versions: its place among its siblings, 1 of 1
    where nothing branches. completion: the request that made it; None for what a client sent.
    """

    level: int
    version: int
    versions: int
    message: Message | None
    completion: Completion | None
    text: str


def conversation_summaries(conversation_pks: Collection[int]) -> dict[int, ConversationSummary]:
    """For each of the conversations (those of one page); four queries in all."""
    messages = dict(
        Message.objects.filter(conversation__in=conversation_pks)
        .values_list("conversation")
        .annotate(Count("pk"))
    )
    completions = Completion.objects.filter(conversation__in=conversation_pks)
    models: dict[int, list[str]] = defaultdict(list)
    for pk, model in (
        completions.order_by("conversation", "model")
        .values_list("conversation", "model")
        .distinct()
    ):
        models[pk].append(model)
    totals = completions.values("conversation").annotate(
        requests=Count("pk"),
        prompt_tokens=Sum("prompt_tokens"),
        completion_tokens=Sum("completion_tokens"),
        last_pk=Max("pk"),
    )
    rows = {row["conversation"]: row for row in totals}
    last_pks = [row["last_pk"] for row in rows.values()]
    statuses = dict(
        Completion.objects.filter(pk__in=last_pks).values_list("conversation", "status")
    )
    summaries = {}
    for pk in conversation_pks:
        row: Mapping[str, Any] = rows.get(pk, {})
        summaries[pk] = ConversationSummary(
            messages=messages.get(pk, 0),
            requests=row.get("requests", 0),
            prompt_tokens=row.get("prompt_tokens", 0),
            completion_tokens=row.get("completion_tokens", 0),
            models=tuple(models[pk]),
            last_status=statuses.get(pk, ""),
        )
    return summaries


def transcript(conversation: Conversation) -> list[TranscriptEntry]:
    """The whole tree from top to bottom, each branch to its end before the next; two queries.

    Requests that brought no message (running, or ended before the first word) stand below the
    message that they should have answered.
    """
    messages = (
        conversation.messages.select_related("completion__content", "completion__api_key")
        .order_by("pk")
        .all()
    )
    children: dict[int | None, list[Message]] = defaultdict(list)
    for message in messages:
        children[message.parent_id].append(message)
    unanswered: dict[int | None, list[Completion]] = defaultdict(list)
    for completion in (
        conversation.completions.filter(outputs=None)
        .select_related("content", "api_key")
        .order_by("pk")
    ):
        unanswered[completion.head_id].append(completion)

    entries = []
    stack: list[TranscriptEntry] = []  # No recursion: a chat may be thousands of messages deep.

    def push(parent_pk: int | None, level: int) -> None:
        siblings = children.pop(parent_pk, [])
        level += len(siblings) > 1
        for version, message in reversed(list(enumerate(siblings, start=1))):
            stack.append(
                TranscriptEntry(
                    level,
                    version,
                    len(siblings),
                    message,
                    message.completion,
                    readable(message.content),
                )
            )

    push(None, 0)
    while stack:
        entry = stack.pop()
        entries.append(entry)
        pk = entry.message.pk if entry.message else None
        entries += [_unanswered_entry(c, entry.level) for c in unanswered.pop(pk, [])]
        push(pk, entry.level)
    # Their message is gone (erased): they are shown all the same.
    for completions in unanswered.values():
        entries += [_unanswered_entry(completion, 0) for completion in completions]
    return entries


def completion_for_reading(queryset: QuerySet[Completion]) -> QuerySet[Completion]:
    """Everything that the page of one completion shows of it, without its messages."""
    return queryset.select_related("user", "api_key", "process", "conversation", "head", "content")


def completion_without_text(queryset: QuerySet[Completion]) -> QuerySet[Completion]:
    """What the same page shows to those who may not read what was said: it is not even loaded."""
    return queryset.select_related("user", "api_key", "process", "conversation").defer(
        "error", "metadata", "conversation__title", "conversation__metadata"
    )


def conversation_requests(conversation: Conversation, at_most: int = 200) -> list[Completion]:
    """Its last requests, the newest first, without a word of what was said in them."""
    rows = conversation.completions.select_related("api_key").defer("error", "metadata")
    return list(rows.order_by("-created_at", "-pk")[:at_most])


def completions_saying(text: str) -> Q:
    """Completions whose prompt or answer holds `text`; of chats, the last input message too."""
    messages = messages_saying(text)
    contents = CompletionContent.objects.alias(
        prompt_text=Cast("prompt", TextField()), output_text=Cast("output", TextField())
    ).filter(Q(prompt_text__icontains=as_stored(text)) | Q(output_text__icontains=as_stored(text)))
    return Q(
        Exists(contents.filter(completion=OuterRef("pk")))
        | Exists(messages.filter(completion=OuterRef("pk")))
        | Exists(messages.filter(pk=OuterRef("head")))
    )


def conversations_saying(text: str) -> Q:
    """Conversations with `text` in one of their messages."""
    return Q(Exists(messages_saying(text).filter(conversation=OuterRef("pk"))))


def newest_saying(rows: QuerySet[Any], condition: Q, ordering: str) -> tuple[QuerySet[Any], bool]:
    """(those of the newest 5,000 of these rows that the condition on texts holds for, whether there
    are more than 5,000). Texts are read here and now, once: the rows are kept by their keys."""
    newest = rows.order_by(ordering, "-pk").values("pk")
    found = rows.order_by().filter(condition, pk__in=newest[:SEARCHED])
    pks = list(found.values_list("pk", flat=True))
    return rows.filter(pk__in=pks), newest[SEARCHED : SEARCHED + 1].exists()


def conversations_with_id(public_id: str) -> list[int]:
    """Primary keys of the conversation of that id, and of that of the request of that id."""
    requests = Completion.objects.filter(public_id=public_id).exclude(conversation=None)
    return [
        *Conversation.objects.filter(public_id=public_id).values_list("pk", flat=True),
        *(pk for pk in requests.values_list("conversation", flat=True) if pk is not None),
    ]


def completions_with_id(public_id: str) -> list[int]:
    """Primary keys of requests that have this id, or this `x-request-id`."""
    by_id = Q(public_id=public_id) | Q(request_id=public_id)
    return list(Completion.objects.filter(by_id).values_list("pk", flat=True)[:SEARCHED])


def messages_saying(*texts: str) -> QuerySet[Message]:
    """Messages that hold each of `texts`, in upper or lower case (in SQLite: of ASCII letters
    only)."""
    # The stored JSON as text: the lookup on a JSON field would compare values.
    messages = Message.objects.alias(content_text=Cast("content", TextField()))
    for text in texts:
        messages = messages.filter(content_text__icontains=as_stored(text))
    return messages


def recent_models() -> list[str]:
    """Names of the models of the last 5,000 requests: a filter's choices, without a full scan."""
    recent = Completion.objects.order_by("-pk").values_list("model", flat=True)[:5000]
    return sorted(set(recent))


def tokens_used_since(
    start: datetime, *, user_id: int | None = None, api_key_id: int | None = None
) -> int:
    """Tokens, of prompts and answers, of the requests of a user or of a key that began at `start`
    or later and have ended."""
    of_whom = {"user": user_id} if api_key_id is None else {"api_key": api_key_id}
    ended = Completion.objects.filter(created_at__gte=start, **of_whom).exclude(
        status=Completion.Status.RUNNING
    )
    total = ended.aggregate(total=Sum(F("prompt_tokens") + F("completion_tokens")))["total"]
    return total or 0


def _unanswered_entry(completion: Completion, level: int) -> TranscriptEntry:
    content = getattr(completion, "content", None)
    texts = [choice["text"] for choice in content.output] if content else []
    return TranscriptEntry(level, 1, 1, None, completion, "\n\n".join(filter(None, texts)))
