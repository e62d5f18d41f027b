"""JSON as the history stores and hashes it: plain text, so that what was said can be searched."""

import json
from typing import Any, TypeAlias

JSONValue: TypeAlias = "str | int | float | bool | list[JSONValue] | dict[str, JSONValue] | None"


class ReadableJSONEncoder(json.JSONEncoder):
    """Writes characters, not escapes: SQLite keeps JSON as the text it is given, and a search for
    北京 must find it there as it does in PostgreSQL's jsonb."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "ensure_ascii": False})


def canonical(value: JSONValue) -> str:
    """One text per value, however its keys were ordered or its JSON was spaced."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def as_stored(text: str) -> str:
    """How `text` looks inside a stored JSON string: quotes, backslashes, newlines are escaped."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
