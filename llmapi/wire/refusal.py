"""Errors of requests that no application has seen, as bytes."""

import logging
from http import HTTPStatus

from llmapi import metrics
from llmapi.errors import ApiError, envelope
from llmapi.request_ids import new_request_id
from llmapi.sse import encode_json

logger = logging.getLogger(__name__)


def refusal(error: ApiError, took_s: float) -> bytes:
    """A whole HTTP answer, after which the connection is closed."""
    request_id = new_request_id()
    body = encode_json(envelope(error)) + b"\n"
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "cache-control": "no-store",
        "x-request-id": request_id,
        "openai-processing-ms": str(round(took_s * 1000)),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",
        "server": "llmapi",
        **error.headers,
    }
    status = HTTPStatus(error.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    metrics.error_sent(error.status_code, error.code, error.error_type)
    metrics.requests.labels("other", "unread", metrics.status_class(status), "refused").inc()
    facts = {"route": "unread", "status": status.value, "outcome": "refused", "code": error.code}
    logger.info(
        "%d refused before it was read: %s",
        status,
        error.code,
        extra={"request_id": request_id, "facts": facts},
    )
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
