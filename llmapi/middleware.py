"""What every answer of Django's side carries. The consumers set the same headers themselves."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from accounts.middleware import path_to_log

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
