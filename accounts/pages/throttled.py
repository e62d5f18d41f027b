"""Views whose form counts attempts (`accounts.attempts`)."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.generic.edit import ProcessFormView

from accounts.attempts import TooManyAttempts
from accounts.pages.errors import too_many_attempts


class ThrottledView(ProcessFormView):
    """429 for who has to wait."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().post(request, *args, **kwargs)
        except TooManyAttempts as refusal:
            return too_many_attempts(request, refusal.wait)
