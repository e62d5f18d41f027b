"""The header `Idempotency-Key`: which request of a user a client sends again."""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from accounts.errors import PermissionRefused
from conversations.errors import IDEMPOTENCY_KEY
from conversations.idempotency import KeyUse
from llmapi.errors import InvalidRequest

REPLAYED = (b"idempotent-replayed", b"true")
"""The header of an answer that was given before."""

HEADER = IDEMPOTENCY_KEY.lower().encode()
VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]{1,255}")


def key_sent(headers: Iterable[tuple[bytes, bytes]], *, is_anonymous: bool) -> bytes | None:
    """The key in these headers; None: there is none.

    Raises InvalidRequest; PermissionRefused for requests without an API key, for strangers share
    their user, and must not be told each other's answers.
    """
    sent = [value for name, value in headers if name == HEADER]
    if not sent:
        return None
    if len(sent) > 1:
        raise InvalidRequest("May be sent once only.", param=IDEMPOTENCY_KEY)
    if not VISIBLE_ASCII.fullmatch(sent[0]):
        raise InvalidRequest(
            "Must be 1 to 255 visible ASCII characters, without spaces, such as a UUID.",
            param=IDEMPOTENCY_KEY,
        )
    if is_anonymous:
        raise PermissionRefused(
            f"Requests without an API key cannot have an {IDEMPOTENCY_KEY}. Send an API key, or "
            "leave the header out.",
            param=IDEMPOTENCY_KEY,
        )
    return sent[0]


def use_of(key: bytes, route: str, body: Any) -> KeyUse:
    """`body`: the request's JSON. Neither spaces nor the order of its keys make another request of
    it."""
    asked = orjson.dumps([route, body], option=orjson.OPT_SORT_KEYS)
    return KeyUse.of(key, asked)
