"""What holds of every answer, whatever was asked."""

from collections.abc import Sequence
from typing import Any

from tests.door.client import Answer
from tests.door.fuzz import document

KEYS = {"message", "type", "param", "code"}


def check_answer(method: str, route: str, answer: Answer, sent: Any = None) -> None:
    """It is what the document says that the route answers, and no server error."""
    assert answer.status < 500, answer.body
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.status == 200
        return
    value = answer.json()
    document.check(method, route, answer.status, value)
    if answer.status >= 400:
        check_error(value, sent)
    elif isinstance(sent, dict) and {"messages", "prompt"} & set(sent):
        check_choices(value, sent)


def check_error(value: Any, sent: Any) -> None:
    assert set(value) == {"error"}
    error = value["error"]
    assert set(error) == KEYS
    assert error["type"] == "invalid_request_error"
    assert 15 <= len(error["message"]) <= 2000
    param = error["param"]
    if isinstance(sent, dict) and param not in (None, "Idempotency-Key"):
        name = param.split(".")[0].split("[")[0]
        said = "is required" in error["message"] or any(
            key[:100] == param or key == name for key in sent
        )
        assert said, f"'{param}' was not sent: {error}"


def check_choices(value: Any, sent: dict[str, Any]) -> None:
    """Of a chat or a completion: so many choices as were asked for, and counts that add up."""
    messages = sent.get("messages") or []
    echoed = len(messages) if any(m.get("message") is not None for m in messages) else 0
    choices = value["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    answers = choices[echoed:]
    assert len(answers) == (sent.get("n") or 1) * prompts_of(sent)
    assert all(choice["finish_reason"] in ("stop", "length") for choice in answers)
    usage = value["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
    limit = sent.get("max_completion_tokens") or sent.get("max_tokens")
    if limit is not None and (sent.get("num_beams") or 1) == 1:
        drawn = max(sent.get("n") or 1, sent.get("best_of") or 1) * prompts_of(sent)
        assert usage["completion_tokens"] <= limit * drawn


def prompts_of(sent: dict[str, Any]) -> int:
    prompt = sent.get("prompt")
    is_list = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return len(prompt) if is_list else 1


def texts_of(value: Any) -> list[str]:
    """Of each choice of an answer."""
    return [
        choice["message"]["content"] if "message" in choice else choice["text"]
        for choice in value["choices"]
    ]


def joined(events: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Of each choice of a stream: its text, and its finish reason."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        assert "error" not in event, event
        for choice in event["choices"]:
            index = choice["index"]
            assert index not in reasons, "nothing comes after the end"
            piece = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            texts[index] = texts.get(index, "") + piece
            if choice["finish_reason"] is not None:
                reasons[index] = choice["finish_reason"]
    assert set(texts) == set(reasons)
    return [texts[i] for i in sorted(texts)], [reasons[i] for i in sorted(reasons)]
