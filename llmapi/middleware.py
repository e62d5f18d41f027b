"""What every answer of Django's side carries. The consumers set the same headers themselves."""

import secrets
from collections.abc import Awaitable, Callable
from typing import ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


def new_request_id() -> str:
    """The id of one request, in its answer's headers, its row and the log."""
    return "req_" + secrets.token_hex(12)


class RequestIdMiddleware:
    """Gives each request an id and names it in the `x-request-id` header of the answer."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        request.request_id = new_request_id()  # type: ignore[attr-defined]
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            response["x-request-id"] = request.request_id  # type: ignore[attr-defined]
            return response
        return self.name_later(request, response)

    async def name_later(
        self, request: HttpRequest, coming: Awaitable[HttpResponseBase]
    ) -> HttpResponseBase:
        response = await coming
        response["x-request-id"] = request.request_id  # type: ignore[attr-defined]
        return response
