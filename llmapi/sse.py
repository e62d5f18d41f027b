"""Server-sent events, as OpenAI's streams use them."""

import json
from typing import Any

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def encode_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; NaN is a bug, not a value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def event(value: Any) -> bytes:
    """One `data:` event. JSON escapes line ends, so an event is always one line."""
    return b"data: " + encode_json(value) + b"\n\n"
