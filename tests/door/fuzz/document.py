"""The OpenAPI document as JSON Schema, by which answers are checked."""

from functools import cache
from typing import Any

import jsonschema
from drf_spectacular.generators import SchemaGenerator


@cache
def document() -> Any:
    return SchemaGenerator().get_schema(request=None, public=True)


@cache
def validator(method: str, route: str, status: int) -> Any:
    """For the JSON that a route (as the document writes it) answers with this status."""
    answer = document()["paths"][route][method.lower()]["responses"][str(status)]
    schema = answer["content"]["application/json"]["schema"]
    whole = {**as_json_schema(schema), "components": as_json_schema(document()["components"])}
    return jsonschema.Draft202012Validator(whole)


def as_json_schema(schema: Any) -> Any:
    """Of OpenAPI 3.0, what differs: `nullable`."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {name: as_json_schema(value) for name, value in schema.items()}
    if converted.pop("nullable", False) is True:
        return {"anyOf": [converted, {"type": "null"}]}
    return converted


def check(method: str, route: str, status: int, value: Any) -> None:
    """Raises ValidationError: it is not what the document says."""
    validator(method, route, status).validate(value)
