"""The JSON of stored chats and conversations, in OpenAI's shapes; ours is under `llmapi`."""

from collections.abc import Sequence
from typing import Any

from conversations.models import Completion, Conversation, Message
from conversations.tree.said import text_of
from llmapi.logprobs import JSON


def list_of(items: Sequence[JSON], has_more: bool) -> JSON:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


# ---- stored chats -------------------------------------------------------------------------------


def stored_chat(completion: Completion, answers: Sequence[Message]) -> JSON:
    """A chat as its answer was, with the facts that OpenAI shows of a stored one. Those of the
    request that cannot be known any more, or were never said, are null."""
    content = getattr(completion, "content", None)
    sent: dict[str, Any] = content.parameters if content else {}
    parameters = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
    total = completion.prompt_tokens + completion.completion_tokens
    return {
        "id": completion.public_id,
        "object": "chat.completion",
        "created": int(completion.created_at.timestamp()),
        "model": completion.model,
        "choices": choices_of(answers, content.output if content else []),
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": total,
            "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "metadata": completion.metadata,
        "request_id": completion.request_id,
        "service_tier": "default",
        "system_fingerprint": None,
        "input_user": sent.get("user"),
        "tools": None,
        "tool_choice": None,
        "response_format": None,
        **{name: sent.get(name) for name in parameters},
        **conversation_named(completion.conversation),
        "llmapi": {
            "status": completion.status,
            "error": completion.error or None,
            "parameters": sent,
            "first_token_ms": completion.first_token_ms,
            "duration_ms": completion.duration_ms,
        },
    }


def conversation_named(conversation: Conversation | None) -> JSON:
    return {"conversation": {"id": conversation.public_id}} if conversation else {}


def choices_of(answers: Sequence[Message], output: Sequence[JSON]) -> list[JSON]:
    """The choices in order. There is always one, for clients that look at `choices[0]`: without
    content if nothing was said, or what was said is deleted. `output`: of one that runs, so far."""
    said: list[tuple[int | None, str | None, str | None]] = [
        (answer.choice_index, text_of(answer.content), answer.finish_reason) for answer in answers
    ] or [(index, part["text"], part["finish_reason"]) for index, part in enumerate(output)]
    return [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish_reason or None,
        }
        for index, text, finish_reason in said or [(0, None, None)]
    ]


def stored_message(message: Message) -> JSON:
    """One message that a stored chat was asked."""
    parts = message.content if isinstance(message.content, list) else None
    return {
        "id": message.public_id,
        "role": message.role,
        "content": "".join(part["text"] for part in parts) if parts else message.content,
        "name": message.name or None,
        "refusal": None,
        "content_parts": parts,
    }


def chat_deleted(public_id: str) -> JSON:
    return {"object": "chat.completion.deleted", "id": public_id, "deleted": True}


# ---- conversations ------------------------------------------------------------------------------


def conversation_object(conversation: Conversation) -> JSON:
    return {
        "id": conversation.public_id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.metadata,
        "llmapi": {
            "title": conversation.title,
            "updated_at": int(conversation.updated_at.timestamp()),
        },
    }


def conversation_deleted(public_id: str) -> JSON:
    return {"object": "conversation.deleted", "id": public_id, "deleted": True}


def item_object(message: Message) -> JSON:
    """A message as the Responses API has it. `incomplete`: it was generated here, and cut short."""
    was_cut = message.choice_index is not None and message.finish_reason != "stop"
    parts = message.content if isinstance(message.content, list) else None
    texts = [part["text"] for part in parts] if parts else [message.content or ""]
    return {
        "id": message.public_id,
        "type": "message",
        "role": message.role,
        "status": "incomplete" if was_cut else "completed",
        "content": [content_part(message.role, text) for text in texts],
    }


def content_part(role: str, text: str) -> JSON:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}
