"""Reading a JSON body strictly: every malformed one is a 400 with a sentence, never a 500."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework.parsers import BaseParser

from llmapi.errors import InvalidJSON, UnsupportedMediaType

JSON_TYPES = ("application/json", "text/json")


def parse_json(
    body: bytes, content_type: str = "application/json", content_encoding: str = ""
) -> Any:
    """The body's value. Raises InvalidJSON or UnsupportedMediaType.

    Accepted: UTF-8, with or without a byte order mark. Refused: other charsets and compressed
    bodies (`charset=zlib` would be a decompression bomb), NaN and Infinity, numbers beyond a
    double, duplicate keys, lone surrogates (`"\\ud800"` has no UTF-8), and nesting beyond Python's
    recursion limit.
    """
    media_type, _, parameters = content_type.partition(";")
    # curl -d without a header says x-www-form-urlencoded; naming JSON is asked for, as OpenAI does.
    if media_type.strip().lower() not in JSON_TYPES:
        raise UnsupportedMediaType(
            f"Send JSON with the header 'Content-Type: application/json' (it is "
            f"'{media_type.strip()[:100]}')."
            if media_type.strip()
            else "Send JSON with the header 'Content-Type: application/json'."
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.strip().lower() == "charset" and value.strip('" ').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("The body must be UTF-8: send no charset, or utf-8.")
    if content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType(
            f"The body must not be compressed: send it without 'Content-Encoding: "
            f"{content_encoding.strip()[:40]}'."
        )
    if not body.strip():
        raise InvalidJSON("The request body is empty; a JSON object is needed.")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidJSON(f"The request body is not UTF-8 (byte {error.start}).") from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=object_without_duplicates,
            parse_constant=refuse_constant,
            parse_float=finite_float,
            parse_int=bounded_int,
        )
        # Escapes such as \ud800 become lone surrogates, which no UTF-8 output can carry.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InvalidJSON("The request body is nested too deeply.") from error
    except UnicodeEncodeError as error:
        raise InvalidJSON("The request body holds a lone surrogate (half a character).") from error
    except json.JSONDecodeError as error:
        raise InvalidJSON(
            f"The request body is not JSON: {error.msg} (line {error.lineno}, "
            f"column {error.colno})."
        ) from error
    return value


def object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidJSON(f"The key '{key[:100]}' stands twice in one object.")
            seen.add(key)
    return result


def refuse_constant(name: str) -> NoReturn:
    raise InvalidJSON(f"{name} is not JSON; send a finite number.")


def finite_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidJSON(f"The number {digits[:40]} is too large.")
    return value


def bounded_int(digits: str) -> int:
    # Python's int is quadratic in the digits, and no field takes a number this long.
    if len(digits.lstrip("-")) > 400:
        raise InvalidJSON(f"The number {digits[:40]}... is too large.")
    return int(digits)


class StrictJSONParser(BaseParser):
    """`parse_json` for DRF's plain views."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        return parse_json(stream.read(), media_type or "application/json")
