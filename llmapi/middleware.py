"""What every answer of Django's side carries. The consumers set the same headers themselves."""

import logging
import secrets
import time

from django.http import HttpRequest, HttpResponseBase

from accounts.logs import path_to_log
from accounts.middleware import QuickMiddleware
from llmapi.errors import InvalidRequest, bad_request

logger = logging.getLogger(__name__)

PROBES = ("/health", "/ready")


def new_request_id() -> str:
    """The id of one request, in its answer's headers, its row and the log."""
    return "req_" + secrets.token_hex(12)


class RequestIdMiddleware(QuickMiddleware):
    """Gives each request an id, names it in the answer's `x-request-id` header, and logs a line.
    Answers of the API stay in no cache: they are one user's."""

    def process_request(self, request: HttpRequest) -> None:
        request.request_id = new_request_id()  # type: ignore[attr-defined]
        request.began = time.monotonic()  # type: ignore[attr-defined]

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        request_id = request.request_id  # type: ignore[attr-defined]
        response["x-request-id"] = request_id
        took_ms = round((time.monotonic() - request.began) * 1000)  # type: ignore[attr-defined]
        response["openai-processing-ms"] = str(took_ms)
        if request.path_info.startswith("/v1/"):
            response.headers.setdefault("Cache-Control", "no-store")
        level = logging.DEBUG if request.path in PROBES else logging.INFO
        logger.log(
            level,
            "%s %s %r %d",
            request_id,
            request.method,
            path_to_log(request.path),
            response.status_code,
        )
        return response


class NoNulMiddleware(QuickMiddleware):
    """400 for a NUL in the path, the query or a cookie. PostgreSQL has no such character: nothing
    is named so, and to ask for it would be an error of the database's. Bodies are checked field
    by field."""

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:
        error = why_nul(request)
        return None if error is None else bad_request(request, error)


def why_nul(request: HttpRequest) -> InvalidRequest | None:
    """The refusal of a request with a NUL in it; None: there is none."""
    sentence = "May not contain NUL (U+0000)."
    query = request.META.get("QUERY_STRING", "")
    if "%00" in query or "\0" in query:
        for name, values in request.GET.lists():
            if "\0" in name or any("\0" in value for value in values):
                return InvalidRequest(sentence, param=name.removesuffix("[]")[:100])
    if "\0" in request.path_info:
        return InvalidRequest(f"The path {sentence[0].lower()}{sentence[1:]}")
    if any("\0" in value for value in request.COOKIES.values()):
        return InvalidRequest(f"A cookie {sentence[0].lower()}{sentence[1:]}")
    return None
