"""The fields that only OpenAI's requests have: prompts, contents, stop strings, tokens."""

import re
from typing import Any

from rest_framework import serializers

from llmapi.fields import StrictField, StrictString, run_indexed

TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")
"""One spelling for each id, so that no two keys of an object mean the same token."""


TOKEN_ID_SCHEMA = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def is_token_id(value: Any) -> bool:
    """Whether this may be one. Whether it is in the vocabulary is the model's business."""
    return type(value) is int and 0 <= value < 2**31


class StopField(StrictField):
    """A string or up to four strings, none of them empty. Internal value: a tuple."""

    expects = "a string or an array of strings"
    max_stops = 4
    item = StrictString(required=True, allow_empty=False, max_length=1000)

    default_error_messages = {"count": "May hold {limit} strings at most (it has {count})."}

    def json_schema(self) -> dict[str, Any]:
        one = self.item.json_schema()
        return {"oneOf": [one, {"type": "array", "items": one, "maxItems": self.max_stops}]}

    def to_internal_value(self, data: Any) -> tuple[str, ...]:
        stops = [data] if isinstance(data, str) else data
        if not isinstance(stops, list):
            self.wrong_type(data)
        if len(stops) > self.max_stops:
            self.fail("count", limit=self.max_stops, count=len(stops))
        return tuple(run_indexed(self.item.run_validation, stops))


class TokenIdsField(StrictField):
    """Token ids, a few. Internal value: a tuple. Whether they are in the vocabulary is the model's
    business."""

    expects = "an array of token ids"
    max_items = 128

    default_error_messages = {
        "count": "May hold {limit} token ids at most (it has {count}).",
        "token": "A token id must be an integer of at least 0.",
    }

    def json_schema(self) -> dict[str, Any]:
        return {"type": "array", "items": TOKEN_ID_SCHEMA, "maxItems": self.max_items}

    def to_internal_value(self, data: Any) -> tuple[int, ...]:
        if not isinstance(data, list):
            self.wrong_type(data)
        if len(data) > self.max_items:
            self.fail("count", limit=self.max_items, count=len(data))
        if not all(map(is_token_id, data)):
            self.fail("token")
        return tuple(data)


class LogitBiasField(StrictField):
    """OpenAI's logit_bias. Internal value: a tuple of (token id, bias). Whether the ids are in the
    vocabulary is the model's business."""

    expects = "an object of token ids and numbers"
    limit = 100
    max_items = 4096

    default_error_messages = {
        "count": "May name {limit} tokens at most (it names {count}).",
        "token": "'{token}' is not a token id: write it as digits, as in {{\"42\": -100}}.",
        "bias": "The bias of token {token} must be a number from -{limit} to {limit}.",
    }

    def json_schema(self) -> dict[str, Any]:
        bias = {"type": "number", "minimum": -self.limit, "maximum": self.limit}
        return {"type": "object", "additionalProperties": bias, "maxProperties": self.max_items}

    def to_internal_value(self, data: Any) -> tuple[tuple[int, float], ...]:
        if not isinstance(data, dict):
            self.wrong_type(data)
        if len(data) > self.max_items:
            self.fail("count", limit=self.max_items, count=len(data))
        for key, bias in data.items():
            if not TOKEN_ID.fullmatch(key):
                self.fail("token", token=key[:40])
            if type(bias) not in (int, float) or not -self.limit <= bias <= self.limit:
                self.fail("bias", token=key, limit=self.limit)
        return tuple((int(key), float(bias)) for key, bias in data.items())


class EarlyStoppingField(StrictField):
    """transformers' early_stopping of beam search."""

    expects = 'true, false or "never"'

    def json_schema(self) -> dict[str, Any]:
        return {"oneOf": [{"type": "boolean"}, {"type": "string", "enum": ["never"]}]}

    def to_internal_value(self, data: Any) -> bool | str:
        if type(data) is not bool and data != "never":
            self.wrong_type(data)
        return data


class PromptsField(StrictField):
    """OpenAI's prompt or input: a string, strings, token ids, or arrays of token ids.

    Internal value: a tuple of items, each a string or a tuple of token ids. Whether the ids are in
    the vocabulary is the model's business.
    """

    expects = "a string, an array of strings, an array of token ids, or an array of such arrays"
    text = StrictString(required=True, allow_empty=False)

    default_error_messages = {
        "empty": "May not be empty.",
        "count": "May hold {limit} items at most (it has {count}).",
        "token": "A token id must be an integer of at least 0.",
        "mixed": "Must hold strings, token ids, or arrays of token ids, not a mixture.",
    }

    def __init__(self, *, max_items: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_items = max_items

    def json_schema(self) -> dict[str, Any]:
        text = self.text.json_schema()
        tokens = {"type": "array", "minItems": 1, "items": TOKEN_ID_SCHEMA}
        many = {"type": "array", "minItems": 1, "maxItems": self.max_items}
        return {"anyOf": [text, many | {"items": text}, tokens, many | {"items": tokens}]}

    def to_internal_value(self, data: Any) -> tuple[str | tuple[int, ...], ...]:
        if isinstance(data, str):
            return (self.text.run_validation(data),)
        if not isinstance(data, list):
            self.wrong_type(data)
        if not data:
            self.fail("empty")
        kinds = {type(item) for item in data}
        if kinds == {int}:
            return (self.tokens(data),)
        if len(data) > self.max_items:
            self.fail("count", limit=self.max_items, count=len(data))
        if kinds == {str}:
            return tuple(run_indexed(self.text.run_validation, data))
        if kinds == {list}:
            return tuple(run_indexed(self.tokens, data))
        self.fail("mixed")
        raise AssertionError  # fail() raises

    def tokens(self, ids: list[Any]) -> tuple[int, ...]:
        if not ids:
            self.fail("empty")
        if not all(map(is_token_id, ids)):
            self.fail("token")
        return tuple(ids)


class ContentField(StrictField):
    """A message's content: text, or an array of text parts. Other kinds of parts are refused by
    name."""

    expects = "a string or an array of content parts"
    text = StrictString(required=True)
    types: tuple[str, ...] = ("text",)
    max_parts = 256

    default_error_messages = {
        "empty": "May not be an empty array.",
        "parts": "May hold {limit} parts at most (it has {count}).",
        "part": "Must be an object with the keys 'type' and 'text'.",
        "part_type": "Parts of type '{type}' are not supported; send {{'type': 'text'}} parts.",
        "part_keys": "A text part has only the keys 'type' and 'text' (found '{extra}').",
    }

    def json_schema(self) -> dict[str, Any]:
        part = {
            "type": "object",
            "properties": {
                "type": {"type": "string", "enum": list(self.types)},
                "text": {"type": "string"},
            },
            "required": ["type", "text"],
            "additionalProperties": False,
        }
        parts = {"type": "array", "minItems": 1, "maxItems": self.max_parts, "items": part}
        return {"oneOf": [{"type": "string"}, parts]}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str):
            return self.text.run_validation(data)
        if not isinstance(data, list):
            self.wrong_type(data)
        if not data:
            self.fail("empty")
        if len(data) > self.max_parts:
            self.fail("parts", limit=self.max_parts, count=len(data))
        return list(run_indexed(self.part, data))

    def part(self, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("type"), str):
            self.fail("part")
        if data["type"] not in self.types:
            self.fail("part_type", type=data["type"][:40])
        for key in data:
            if key not in ("type", "text"):
                self.fail("part_keys", extra=str(key)[:40])
        if "text" not in data:
            self.fail("part")
        return {"type": "text", "text": self.text.run_validation(data["text"])}


class MetadataField(StrictField):
    """OpenAI's metadata: up to 16 pairs of strings."""

    expects = "an object of strings"
    max_pairs, max_key, max_value = 16, 64, 512

    default_error_messages = {
        "count": "May hold {limit} pairs at most (it has {count}).",
        "key": "A key may be {limit} characters long at most, and not empty ('{found}' is not).",
        "key_nul": "A key may not contain NUL (U+0000).",
    }
    value = StrictString(required=True, max_length=max_value)

    def json_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "additionalProperties": self.value.json_schema(),
            "maxProperties": self.max_pairs,
        }

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict):
            self.wrong_type(data)
        if len(data) > self.max_pairs:
            self.fail("count", limit=self.max_pairs, count=len(data))
        pairs = {}
        for key, value in data.items():
            if "\0" in key:
                self.fail("key_nul")
            if not 1 <= len(key) <= self.max_key:
                self.fail("key", limit=self.max_key, found=f"{key[:40]}...")
            try:
                pairs[key] = self.value.run_validation(value)
            except serializers.ValidationError as error:
                detail: Any = {key: error.detail}
                raise serializers.ValidationError(detail) from error
        return pairs


class ConversationField(StrictField):
    """A conversation by its id, or by an object that has it. Internal value: the id."""

    expects = "the id of a conversation, or an object with the key 'id'"
    text = StrictString(required=True, allow_empty=False, max_length=200)

    default_error_messages = {"key": "Has only the key 'id' (found '{found}')."}

    def json_schema(self) -> dict[str, Any]:
        text = self.text.json_schema()
        named: dict[str, Any] = {"type": "object", "properties": {"id": text}, "required": ["id"]}
        named["additionalProperties"] = False
        return {"oneOf": [text, named]}

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, dict):
            for key in data:
                if key != "id":
                    self.fail("key", found=key[:40])
            data = data.get("id")
        if not isinstance(data, str):
            self.wrong_type(data)
        return self.text.run_validation(data)
