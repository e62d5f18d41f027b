"""A new password: in place of the old one, or by a link from staff."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.views import PasswordChangeView, PasswordResetConfirmView
from django.http import HttpResponse
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _

from accounts.links import password_tokens
from accounts.models import User
from accounts.pages.access import page


@method_decorator(page, name="dispatch")
class PasswordChange(PasswordChangeView):
    """Ends the user's sessions elsewhere; this one goes on."""

    template_name = "accounts/password.html"
    success_url = reverse_lazy("start")

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        messages.success(
            self.request, _("Your password is changed; you are signed out everywhere else.")
        )
        return response


class PasswordByLink(PasswordResetConfirmView):
    """The link of `manage.py passwordlink`, good once and for three days. The token leaves the
    address at once, for the session."""

    template_name = "accounts/password_link.html"
    success_url = reverse_lazy("sign_in")
    token_generator = password_tokens

    def get_user(self, uidb64: str) -> User | None:
        user = super().get_user(uidb64)
        if user is None or not user.is_active or user.is_keyless:
            return None
        return user

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        messages.success(self.request, _("Your password is set. Sign in with it."))
        return response
