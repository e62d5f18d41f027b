"""What people are told when they have too many exports under way, whichever page began them."""

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from accounts.middleware import QuickMiddleware
from accounts.pages.errors import error_page
from conversations.exports.streaming import TooManyExports


class ExportsMiddleware(QuickMiddleware):
    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, TooManyExports):
            return None
        return error_page(
            429,
            _("Other exports of yours are still under way"),
            _("Wait until one of them has ended, or cancel it, then try again."),
            {"Retry-After": "60"},
        )
