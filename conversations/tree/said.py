"""What was said: a message before it is stored, and the text of what is. No database."""

from collections.abc import Sequence
from dataclasses import dataclass

from conversations.storage.jsontext import JSONValue, canonical

TITLE_LENGTH = 80


@dataclass(frozen=True, slots=True)
class NewMessage:
    """One message as a client sent it. `content`: a string, a list of parts, or None."""

    role: str
    content: JSONValue
    name: str = ""


def title_of(messages: Sequence[NewMessage]) -> str:
    """The first user message's words, shortened to 80 characters; "" if it has none."""
    first = next((m for m in messages if m.role == "user"), messages[0])
    words = " ".join(text_of(first.content)[: 20 * TITLE_LENGTH].split())
    return words if len(words) <= TITLE_LENGTH else words[: TITLE_LENGTH - 1].rstrip() + "…"


def text_of(content: JSONValue) -> str:
    """The text of a message's content: the string itself, or the texts of its parts, one a line."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def readable(content: JSONValue) -> str:
    """A message's content as text: parts that are no text appear as their JSON."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return canonical(content)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        texts.append(text if isinstance(text, str) else canonical(part))
    return "\n".join(texts)


def prompt_texts(prompt: JSONValue) -> list[str]:
    """The prompts of a completion or the inputs of an embedding request, one text each. A prompt of
    token ids appears as its JSON."""
    if prompt is None:
        return []
    if isinstance(prompt, list) and all(isinstance(part, str | list) for part in prompt):
        return [part if isinstance(part, str) else canonical(part) for part in prompt]
    return [prompt if isinstance(prompt, str) else canonical(prompt)]
