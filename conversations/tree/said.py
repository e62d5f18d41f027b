"""What a client said, before it is stored, and words of it. No database."""

from collections.abc import Sequence
from dataclasses import dataclass

from conversations.storage.jsontext import JSONValue

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
