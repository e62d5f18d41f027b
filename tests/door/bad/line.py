"""One line of the table of bad input."""

import json
from dataclasses import dataclass, field
from typing import Any

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ONE_CHAT, CONVERSATIONS = f"{CHAT}/{{chat}}", "/v1/conversations"
CONVERSATION = f"{CONVERSATIONS}/{{conversation}}"
ITEMS, ADAPTERS = f"{CONVERSATION}/items", "/v1/admin/adapters"
DOOR = (CHAT, COMPLETIONS, EMBEDDINGS)
POSTS = (*DOOR, ONE_CHAT, CONVERSATIONS, CONVERSATION, ITEMS, ADAPTERS)
"""All that take a body."""

HELLO = [{"role": "user", "content": "Hello"}]
ITEM = {"role": "user", "content": "Hello"}


@dataclass(frozen=True)
class Bad:
    """One mistake, and what its maker is told.

    `{chat}`, `{conversation}` and `{item}` in the path are objects of the asker's own; a body of
    bytes is sent as it is. says: words of the message.
    """

    method: str
    path: str
    status: int
    code: str | None
    param: str | None
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    says: str = ""

    def __str__(self) -> str:
        sent = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return f"{self.method} {self.path[:100]} {self.headers} {sent[:150]!r}"


def bad(path: str, body: Any, param: str | None, code: str | None = None) -> Bad:
    """A body whose field `param` is wrong."""
    status = 404 if code in ("model_not_found", "not_found") else 400
    return Bad("POST", path, status, code, param, body)
