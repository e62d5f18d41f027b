"""The JSON of answers, in OpenAI's shapes and in the seed's."""

import base64
from array import array
from collections.abc import Iterable, Sequence

from llmapi.adapters import ListedAdapter
from llmapi.backends.base import ChatRequest, ModelCard
from llmapi.engine.messages import TokenLogprob
from llmapi.logprobs import JSON, TextLogprobs, chat_logprobs
from llmapi.outcomes import Choice, Outcome


def usage(outcome: Outcome) -> JSON:
    prompt, completion = outcome.prepared.prompt_tokens, outcome.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def head(outcome: Outcome, kind: str) -> JSON:
    """What every answer and every chunk begins with."""
    return {
        "id": outcome.public_id,
        "object": kind,
        "created": outcome.created,
        "model": outcome.prepared.model,
    }


# ---- chat ---------------------------------------------------------------------------------------


def chat_completion(outcome: Outcome, request: ChatRequest) -> JSON:
    first = len(request.messages) if request.seed_dialect else 0
    answers = [
        {
            "index": first + index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": logprobs_of_chat(outcome, choice.logprobs),
            "finish_reason": choice.finish_reason,
        }
        for index, choice in enumerate(outcome.choices)
    ]
    asked = seed_echo(request) if request.seed_dialect else []
    return {
        **head(outcome, "chat.completion"),
        "choices": asked + answers,
        "usage": usage(outcome),
        **({"metadata": outcome.keeping.metadata} if outcome.keeping.metadata else {}),
        **conversation_named(outcome),
    }


def conversation_named(outcome: Outcome) -> JSON:
    """By which id its owner may go on with it: a key of our own beside OpenAI's."""
    return {"conversation": {"id": outcome.conversation_id}} if outcome.conversation_id else {}


def seed_echo(request: ChatRequest) -> list[JSON]:
    """The seed lists the conversation itself before the answer."""
    return [
        {"index": index, "message": {"role": message.role, "content": message.content}}
        for index, message in enumerate(request.messages)
    ]


def chat_chunk(
    outcome: Outcome,
    index: int,
    delta: JSON,
    finish_reason: str | None = None,
    logprobs: JSON | None = None,
) -> JSON:
    choice = choice_of_chunk(index, delta, finish_reason, logprobs)
    return {**head(outcome, "chat.completion.chunk"), "choices": [choice]}


def choice_of_chunk(
    index: int, delta: JSON, finish_reason: str | None = None, logprobs: JSON | None = None
) -> JSON:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def logprobs_of_chat(outcome: Outcome, tokens: Sequence[TokenLogprob]) -> JSON | None:
    if not outcome.prepared.wants_logprobs:
        return None
    return chat_logprobs(tokens, outcome.prepared.special_tokens)


# ---- completion ---------------------------------------------------------------------------------


def text_completion(outcome: Outcome) -> JSON:
    return {
        **head(outcome, "text_completion"),
        "choices": [
            text_choice(
                index,
                echoed(outcome, index) + choice.text,
                choice.finish_reason,
                logprobs_of_text(outcome, index, choice),
            )
            for index, choice in enumerate(outcome.choices)
        ],
        "usage": usage(outcome),
    }


def text_chunk(
    outcome: Outcome,
    index: int,
    text: str,
    finish_reason: str | None = None,
    logprobs: JSON | None = None,
) -> JSON:
    return {
        **head(outcome, "text_completion"),
        "choices": [text_choice(index, text, finish_reason, logprobs)],
    }


def text_choice(index: int, text: str, finish_reason: str | None, logprobs: JSON | None) -> JSON:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def echoed(outcome: Outcome, index: int) -> str:
    """The text that goes in front of a choice."""
    echo = outcome.prepared.echo
    return echo[index * len(echo) // len(outcome.choices)] if echo else ""


def logprobs_of_text(outcome: Outcome, index: int, choice: Choice) -> JSON | None:
    if not outcome.prepared.wants_logprobs:
        return None
    told = TextLogprobs(outcome.prepared.special_tokens)
    prompt = told.prompt(choice.prompt_logprobs, echoed(outcome, index))
    answer = told.answer(choice.logprobs, choice.text)
    return {name: prompt[name] + answer[name] for name in prompt}


def usage_chunk(outcome: Outcome, kind: str) -> JSON:
    """The chunk before [DONE] that `stream_options.include_usage` asks for."""
    return {**head(outcome, kind), "choices": [], "usage": usage(outcome)}


# ---- embedding ----------------------------------------------------------------------------------


def embedding_list(outcome: Outcome, vectors: Sequence[bytes], as_base64: bool) -> JSON:
    """`vectors`: float32, little-endian."""
    tokens = outcome.prepared.prompt_tokens
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector).decode() if as_base64 else numbers(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": outcome.prepared.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def embeddings_as_numbers(answer: JSON) -> JSON:
    """An `embedding_list` in base64, as numbers."""
    data = [
        {**item, "embedding": numbers(base64.b64decode(item["embedding"]))}
        for item in answer["data"]
    ]
    return {**answer, "data": data}


def numbers(vector: bytes) -> list[float]:
    values = array("f")
    values.frombytes(vector)
    return values.tolist()


def shortened(vector: bytes, dimensions: int) -> bytes:
    """The first `dimensions` numbers, scaled to length 1 again."""
    kept = numbers(vector)[:dimensions]
    length = sum(value * value for value in kept) ** 0.5 or 1.0
    return array("f", [value / length for value in kept]).tobytes()


# ---- models -------------------------------------------------------------------------------------


def model_object(card: ModelCard) -> JSON:
    return {
        "id": card.id,
        "object": "model",
        "created": card.created,
        "owned_by": "llmapi",
        "root": card.root,
        "parent": card.parent,
        "llmapi": {**card.details, "alias_of": card.alias_of},
    }


def model_list(cards: Iterable[ModelCard], note: str | None = None) -> JSON:
    """note: why there are none."""
    listed: JSON = {"object": "list", "data": [model_object(card) for card in cards]}
    return listed | {"llmapi": {"note": note}} if note else listed


def model_deleted(model: str) -> JSON:
    return {"id": model, "object": "model", "deleted": True}


def adapter_list(adapters: Iterable[ListedAdapter]) -> JSON:
    return {"object": "list", "data": [adapter_object(adapter) for adapter in adapters]}


def adapter_object(adapter: ListedAdapter) -> JSON:
    """For staff, who may know where it lies and why it failed."""
    row, info = adapter.row, adapter.status.info if adapter.status else None
    return {
        "id": adapter.name,
        "object": "adapter",
        "state": adapter.state,
        "message": adapter.failure,
        "source": "settings" if adapter.configured else "staff",
        "path": row.path if row else None,
        "added_by": row.added_by.get_username() if row else None,
        "created": int(row.added_at.timestamp()) if row else None,
        "rank": info.rank if info else None,
        "targets": list(info.targets) if info else None,
        "bytes": info.bytes if info else None,
    }


def healthy() -> JSON:
    return {"status": "ok"}


def readiness(reason: str | None) -> JSON:
    """`reason`: why not; None: it is ready."""
    return {"status": "ready"} if reason is None else {"status": "unavailable", "reason": reason}
