"""Strict serializer fields: a value is what it says it is, or the field says what was expected.

DRF's own fields coerce: they strip prompts, read "3" and 3.0 as integers, true as 1.0 and "on" as
true. Null means left out, as in OpenAI's API.
"""

from typing import Any

from rest_framework import serializers

JSON_TYPE_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def type_name(value: Any) -> str:
    """What JSON calls this value: `an array`."""
    return JSON_TYPE_NAMES.get(type(value), type(value).__name__)


class StrictField(serializers.Field):
    """A field of one JSON type. Optional and nullable unless `required=True`."""

    expects = "a value"

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("required", False)
        kwargs.setdefault("allow_null", not kwargs["required"])
        super().__init__(**kwargs)

    default_error_messages = {
        "type": "Must be {expects}, not {got}.",
        "null": "This field may not be null.",
        "required": "This field is required.",
    }

    def json_schema(self) -> dict[str, Any]:
        """What the OpenAPI document says of this field."""
        return {}

    def wrong_type(self, value: Any) -> None:
        self.fail("type", expects=self.expects, got=type_name(value))

    def to_representation(self, value: Any) -> Any:
        return value


class StrictBoolean(StrictField):
    expects = "a boolean"

    def json_schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            self.wrong_type(data)
        return data


class StrictNumber(StrictField):
    """A finite number within bounds. `above` excludes its end, `minimum` and `maximum` include
    theirs."""

    expects = "a number"
    types: tuple[type, ...] = (int, float)

    default_error_messages = {
        "minimum": "Must be at least {limit}.",
        "maximum": "Must be at most {limit}.",
        "above": "Must be greater than {limit}.",
    }

    def __init__(
        self,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        above: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.minimum, self.maximum, self.above = minimum, maximum, above

    def json_schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "number"}
        if self.minimum is not None:
            schema["minimum"] = self.minimum
        if self.above is not None:
            schema |= {"minimum": self.above, "exclusiveMinimum": True}
        if self.maximum is not None:
            schema["maximum"] = self.maximum
        return schema

    def to_internal_value(self, data: Any) -> Any:
        if type(data) not in self.types:
            self.wrong_type(data)
        if self.minimum is not None and data < self.minimum:
            self.fail("minimum", limit=self.minimum)
        if self.above is not None and data <= self.above:
            self.fail("above", limit=self.above)
        if self.maximum is not None and data > self.maximum:
            self.fail("maximum", limit=self.maximum)
        return data


class StrictFloat(StrictNumber):
    def to_internal_value(self, data: Any) -> float:
        return float(super().to_internal_value(data))


class StrictInteger(StrictNumber):
    expects = "an integer"
    types = (int,)

    def json_schema(self) -> dict[str, Any]:
        return super().json_schema() | {"type": "integer"}


class StrictString(StrictField):
    """Text as sent, white space included; NUL is refused, for PostgreSQL cannot keep it."""

    expects = "a string"

    default_error_messages = {
        "nul": "May not contain NUL (U+0000).",
        "empty": "May not be empty.",
        "max_length": "May be {limit} characters long at most (it has {length}).",
        "choice": "Must be one of: {choices}.",
    }

    def __init__(
        self,
        *,
        allow_empty: bool = True,
        max_length: int | None = None,
        choices: tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.allow_empty, self.max_length, self.choices = allow_empty, max_length, choices

    def json_schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        if not self.allow_empty:
            schema["minLength"] = 1
        if self.max_length is not None:
            schema["maxLength"] = self.max_length
        if self.choices is not None:
            schema["enum"] = list(self.choices)
        return schema

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.wrong_type(data)
        if not data and not self.allow_empty:
            self.fail("empty")
        if "\0" in data:
            self.fail("nul")
        if self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", limit=self.max_length, length=len(data))
        if self.choices is not None and data not in self.choices:
            self.fail("choice", choices=", ".join(f"'{choice}'" for choice in self.choices))
        return data


def run_indexed(validate: Any, items: list[Any]) -> Any:
    """`validate` each item; an error is raised under the item's index."""
    for index, item in enumerate(items):
        try:
            yield validate(item)
        except serializers.ValidationError as error:
            detail: Any = {index: error.detail}
            raise serializers.ValidationError(detail) from error
