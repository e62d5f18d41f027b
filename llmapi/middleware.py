"""What every answer of Django's side carries. The consumers set the same headers themselves."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from accounts.logs import path_to_log
from llmapi.errors import InvalidRequest, bad_request

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


logger = logging.getLogger(__name__)

PROBES = ("/health", "/ready")


def new_request_id() -> str:
    """The id of one request, in its answer's headers, its row and the log."""
    return "req_" + secrets.token_hex(12)


class RequestIdMiddleware:
    """Gives each request an id, names it in the answer's `x-request-id` header, and logs a line."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        request.request_id = new_request_id()  # type: ignore[attr-defined]
        request.began = time.monotonic()  # type: ignore[attr-defined]
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            return self.name(request, response)
        return self.name_later(request, response)

    def name(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        request_id = request.request_id  # type: ignore[attr-defined]
        response["x-request-id"] = request_id
        took_ms = round((time.monotonic() - request.began) * 1000)  # type: ignore[attr-defined]
        response["openai-processing-ms"] = str(took_ms)
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

    async def name_later(
        self, request: HttpRequest, coming: Awaitable[HttpResponseBase]
    ) -> HttpResponseBase:
        return self.name(request, await coming)


class NoNulMiddleware:
    """400 for a NUL in the path, the query or a cookie. PostgreSQL has no such character: nothing
    is named so, and to ask for it would be an error of the database's. Bodies are checked field
    by field."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        error = why_nul(request)
        if error is None:
            return self.get_response(request)
        refusal = bad_request(request, error)
        return answered(refusal) if iscoroutinefunction(self) else refusal


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


async def answered(response: HttpResponseBase) -> HttpResponseBase:
    return response
