"""How many exports a user may have under way, whichever view made them."""

from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _

from accounts.middleware import QuickMiddleware
from accounts.pages.errors import error_page
from conversations.streaming import Export


class ExportsMiddleware(QuickMiddleware):
    """A page in place of an export that is one too many. What the view noted of it stays noted."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
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
