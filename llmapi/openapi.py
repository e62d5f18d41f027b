"""What the OpenAPI document says of every route, beside what its view says of it."""

from typing import Any

ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
EVERYWHERE = {"400": "The request is wrong; `param` names the field."}
WITH_A_KEY = {
    "401": "The key is missing, malformed, unknown, expired or revoked.",
    "403": "The key is not for this.",
    "503": "Not now: loading, overloaded or shutting down.",
}
WITH_A_BODY = {
    "413": "The body is too large.",
    "415": "The body is not JSON in UTF-8, or is compressed.",
}
HEADERS = {
    "x-request-id": {
        "description": "Also in the log of the server.",
        "schema": {"type": "string", "pattern": "^req_[0-9a-f]{24}$"},
        "required": True,
    },
    "openai-processing-ms": {
        "description": "How long the server took, in milliseconds.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "required": True,
    },
}


def complete(result: dict[str, Any], **of_spectacular: Any) -> dict[str, Any]:
    """drf-spectacular's hook: the errors and the headers that any route may answer with."""
    for path in result["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            for status, description in errors_of(operation).items():
                responses.setdefault(status, {"content": ERROR, "description": description})
            for response in responses.values():
                response["headers"] = HEADERS
            operation["responses"] = dict(sorted(responses.items()))
    return result


def errors_of(operation: dict[str, Any]) -> dict[str, str]:
    """Status -> what it means."""
    errors = dict(EVERYWHERE)
    if operation.get("security"):
        errors |= WITH_A_KEY
    if "requestBody" in operation:
        errors |= WITH_A_BODY
    return errors
