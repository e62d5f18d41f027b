"""What every answer of Django's side carries. The consumers set the same headers themselves."""

import logging
import time

from django.http import HttpRequest, HttpResponseBase

from accounts import logs
from accounts.logs import path_to_log
from accounts.middleware import QuickMiddleware
from llmapi import metrics
from llmapi.errors import InvalidRequest, bad_request
from llmapi.request_ids import ids_of_client, new_request_id

logger = logging.getLogger(__name__)

PROBES = ("/health", "/ready", "/metrics")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class RequestIdMiddleware(QuickMiddleware):
    """Gives each request an id, names it in the answer's `x-request-id` header, and logs a line.
    Answers of the API stay in no cache: they are one user's."""

    def process_request(self, request: HttpRequest) -> None:
        request.request_id = new_request_id()  # type: ignore[attr-defined]
        logs.request_id.set(request.request_id)  # type: ignore[attr-defined]
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
        path, route, ending = path_to_log(request.path), route_of(request), ending_of(response)
        facts = {
            "method": request.method,
            "path": path,
            "route": route,
            "status": response.status_code,
            "outcome": ending,
            "duration_ms": took_ms,
            **ids_of_client(lambda name: request.headers.get(name, "")),
        }
        logger.log(
            logging.DEBUG if request.path in PROBES else logging.INFO,
            "%s %r %d, %d ms",
            request.method,
            path,
            response.status_code,
            took_ms,
            extra={"request_id": request_id, "facts": facts},
        )
        method = request.method if request.method in METHODS else "other"
        status = metrics.status_class(response.status_code)
        metrics.requests.labels(method, route, status, ending).inc()
        metrics.request_s.labels(route).observe(took_ms / 1000)
        return response


def ending_of(response: HttpResponseBase) -> str:
    if response.status_code < 400:
        return "completed"
    return "failed" if response.status_code in (500, 501, 502) else "refused"


def route_of(request: HttpRequest) -> str:
    """Which pattern of the URLconf has answered, with a slash before it; `other`: none. Of the
    admin, whose pages are many, the name alone."""
    match = request.resolver_match
    if match is None:
        return "other"
    return "/admin/" if match.route.startswith("admin/") else f"/{match.route}"


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
