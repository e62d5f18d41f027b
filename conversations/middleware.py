"""How many exports a user may have under way, whichever view made them."""

from collections.abc import Awaitable, Callable
from typing import ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _

from accounts.pages.errors import error_page
from conversations.streaming import Export

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class ExportsMiddleware:
    """A page in place of an export that is one too many. What the view noted of it stays noted."""

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            return self.bound(request, response)
        return self.bound_later(request, response)

    def bound(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        # The view has looked who asks, so that this is no query; nobody exports without a user.
        if not isinstance(response, Export) or response.begin_for(request.user.pk or 0):
            return response
        response.close()
        return error_page(
            429,
            _("Other exports of yours are still under way"),
            _("Wait until one of them has ended, or cancel it, then try again."),
            {"Retry-After": "60"},
        )

    async def bound_later(
        self, request: HttpRequest, coming: Awaitable[HttpResponseBase]
    ) -> HttpResponseBase:
        return self.bound(request, await coming)
