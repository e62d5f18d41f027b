"""Server-sent events, as OpenAI's streams use them."""

from typing import Any

import orjson

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def encode_json(value: Any) -> bytes:
    """Compact JSON in UTF-8. (NaN, which JSON lacks, becomes null.)"""
    return orjson.dumps(value)


def event(value: Any) -> bytes:
    """One `data:` event. JSON escapes line ends, so an event is always one line."""
    return b"data: " + encode_json(value) + b"\n\n"
