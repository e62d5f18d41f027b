"""Serializers in which nothing vanishes. Every field has one of three fates: a declared one is
honoured; one in `neutral` is accepted at the values given there, where it changes nothing, and
refused at any other; a name that is in neither is unknown. docs/parameters.md shows the table, and
a test walks it.
"""

import difflib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.request import Request

from llmapi.fields import type_name
from llmapi.parsers import parse_json

NEUTRAL = Mapping[str, tuple[Any, ...]]


class StrictListSerializer(serializers.ListSerializer):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, list):
            message = f"Must be an array, not {type_name(data)}."
            raise serializers.ValidationError({"non_field_errors": [message]})
        return super().to_internal_value(data)


class StrictSerializer(serializers.Serializer):
    """Unknown and unsupported keys are errors that name them."""

    neutral: ClassVar[NEUTRAL] = {}
    """Parameter -> the values at which it changes nothing (null always is one)."""

    class Meta:
        list_serializer_class = StrictListSerializer

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            message = f"Must be an object, not {type_name(data)}."
            raise serializers.ValidationError({"non_field_errors": [message]})
        for key, value in data.items():
            if key not in self.fields:
                self.check_fate(key, value)
        return super().to_internal_value(data)

    def check_fate(self, key: str, value: Any) -> None:
        shown = key[:100]
        if key not in self.neutral:
            message = f"Unknown parameter: '{shown}'. {self.hint(shown)}".rstrip()
            raise serializers.ValidationError({shown: [message]}, code="unknown_parameter")
        neutral = self.neutral[key]
        # type() too, for 0 == False and 1 == True
        if value is None or any(type(value) is type(n) and value == n for n in neutral):
            return
        accepted = " or ".join(["null", *map(json.dumps, neutral)])
        message = f"'{key}' is not supported by this server; leave it out (or send {accepted})."
        raise serializers.ValidationError({key: [message]}, code="unsupported_parameter")

    def hint(self, unknown: str) -> str:
        """What may have been meant by a parameter that there is not."""
        nearest = difflib.get_close_matches(unknown, [*self.fields, *self.neutral], n=1)
        return f"Did you mean '{nearest[0]}'?" if nearest else ""


def validated(serializer: type[StrictSerializer], request: Request) -> dict[str, Any]:
    """What the body of a plain view's request says. Raises ValidationError and what `parse_json`
    does."""
    # Not `request.data`, which takes a body without Content-Length for an empty one.
    encoding = request.headers.get("Content-Encoding", "")
    asked = serializer(data=parse_json(request.body, request.content_type, encoding))
    asked.is_valid(raise_exception=True)
    return asked.validated_data
