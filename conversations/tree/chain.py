"""The hash chain that finds a chat's earlier turns again. No database.

Clients of a stateless chat API send the whole history with every call. Each message's hash covers
its parent's hash, so one hash stands for a whole path from the beginning, and an equal hash means
an equal history. The root is salted with the user: equal words of two users never meet.
"""

import hashlib
from collections.abc import Iterable

from conversations.storage.jsontext import JSONValue, canonical

# Part of every hash: another one would part stored histories from the calls that continue them.
VERSION = "llmapi chain 1"


def root(user_id: int) -> str:
    """The parent hash of a user's first messages: 64 hex digits."""
    return _sha256(canonical([VERSION, user_id]))


def link(parent_hash: str, role: str, name: str, content: JSONValue) -> str:
    """The hash of one message below `parent_hash`: 64 hex digits. Roles are not folded: `developer`
    and `system` differ."""
    return _sha256(canonical([parent_hash, role, name, content]))


def hashes(user_id: int, messages: Iterable[tuple[str, str, JSONValue]]) -> list[str]:
    """The hashes of a history of (role, name, content), first message first."""
    return links(root(user_id), messages)


def links(parent_hash: str, messages: Iterable[tuple[str, str, JSONValue]]) -> list[str]:
    """The hashes of messages that follow one another below `parent_hash`."""
    found = []
    for role, name, content in messages:
        parent_hash = link(parent_hash, role, name, content)
        found.append(parent_hash)
    return found


def _sha256(text: str) -> str:
    # surrogatepass: a lone surrogate is refused at the door; here it must only not raise.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
