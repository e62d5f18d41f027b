"""Conversations, and completions and embeddings, as JSON: a line each."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from conversations.exports.portions import as_text, portions
from conversations.models import Completion, Conversation, Message

AT_ONCE = 20
"""Rows with their text, in one portion."""


def conversations_jsonl(
    conversations: QuerySet[Conversation], *, for_owner: bool = False
) -> Iterator[str]:
    """One conversation a line, the oldest first. Those that are erased meanwhile are left out.

    for_owner: with the title, and without what staff think of it.
    """
    for pks in portions(conversations, AT_ONCE):
        messages: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for message in (
            Message.objects.filter(conversation__in=pks)
            .select_related("completion", "parent")
            .only(
                *("public_id", "role", "name", "content", "finish_reason", "created_at"),
                *("conversation_id", "choice_index", "parent__public_id"),
                *("completion__public_id", "completion__model", "completion__status"),
            )
            .order_by("pk")
        ):
            messages[message.conversation_id].append(_message(message))
        for conversation in (
            Conversation.objects.filter(pk__in=pks)
            .select_related("user", "api_key", "review__reviewer")
            .prefetch_related("review__labels")
            .order_by("pk")
        ):
            line = _conversation(conversation, messages[conversation.pk])
            if for_owner:
                del line["review"]
                line["title"] = conversation.title
            yield _line(line)


def completions_jsonl(completions: QuerySet[Completion]) -> Iterator[str]:
    """One completion or embedding request a line, with its prompt and output, the oldest first.
    Chats, which are in conversations, are left out."""
    others = completions.exclude(kind=Completion.Kind.CHAT)
    for pks in portions(others, AT_ONCE):
        for completion in (
            # Erased while this was going on: not there any more.
            Completion.objects.filter(pk__in=pks, erased_at=None)
            .select_related("api_key", "content")
            .order_by("pk")
        ):
            yield _line(_completion(completion))


def _conversation(row: Conversation, messages: list[dict[str, Any]]) -> dict[str, Any]:
    review = getattr(row, "review", None)
    return {
        "id": row.public_id,
        "user": row.user.get_username(),
        "key": row.api_key.name if row.api_key else None,
        "created_at": as_text(row.created_at),
        "updated_at": as_text(row.updated_at),
        "metadata": row.metadata,
        "messages": messages,
        "review": review
        and {
            "reviewer": review.reviewer.get_username(),
            "score": review.score,
            "labels": sorted(label.name for label in review.labels.all()),
            "notes": review.notes,
            "updated_at": as_text(review.updated_at),
        },
    }


def _message(row: Message) -> dict[str, Any]:
    """`parent` is the message that it answers or follows: siblings are other versions."""
    made = {}
    if row.completion is not None:
        made = {
            "completion": row.completion.public_id,
            "model": row.completion.model,
            "status": row.completion.status,
            "choice": row.choice_index,
            "finish_reason": row.finish_reason or None,
        }
    return {
        "id": row.public_id,
        "parent": row.parent.public_id if row.parent else None,
        "role": row.role,
        **({"name": row.name} if row.name else {}),
        "content": row.content,
        "created_at": as_text(row.created_at),
        **made,
    }


def _completion(row: Completion) -> dict[str, Any]:
    content = getattr(row, "content", None)
    return {
        "id": row.public_id,
        "kind": row.kind,
        "key": row.api_key.name if row.api_key else None,
        "model": row.model,
        "status": row.status,
        "created_at": as_text(row.created_at),
        "metadata": row.metadata,
        "parameters": content.parameters if content else {},
        "prompt": content.prompt if content else None,
        "output": content.output if content else [],
        "usage": {
            "prompt_tokens": row.prompt_tokens,
            "cached_tokens": row.cached_tokens,
            "completion_tokens": row.completion_tokens,
        },
        "error": row.error or None,
    }


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
