"""A new password: in place of the old one, or by a link from staff."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.views import PasswordChangeView, PasswordResetConfirmView
from django.http import HttpResponse
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _

from accounts.addresses import client_address
from accounts.attempts import SIGN_IN, attempt_begin, attempt_succeeded
from accounts.links import password_tokens
from accounts.models import User
from accounts.pages.access import page
from accounts.pages.throttled import ThrottledView
from accounts.services import password_set


class ChangeForm(PasswordChangeForm):
    """Whoever has come to somebody's session must not find out the password: wrong ones count with
    those of the sign-in."""

    def __init__(self, *args: Any, address: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = address

    def clean_old_password(self) -> str:
        attempt = attempt_begin(SIGN_IN, address=self.address, name=self.user.get_username())
        password = super().clean_old_password()
        attempt_succeeded(attempt)
        return password


@method_decorator(page, name="dispatch")
class PasswordChange(ThrottledView, PasswordChangeView):
    """Ends the user's sessions elsewhere; this one goes on."""

    template_name = "accounts/password.html"
    form_class = ChangeForm
    success_url = reverse_lazy("start")

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "address": client_address(self.request)}

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        password_set(form.user, by=form.user)
        messages.success(
            self.request, _("Your password is changed; you are signed out everywhere else.")
        )
        return response


class PasswordByLink(PasswordResetConfirmView):
    """The link of `manage.py passwordlink` and of the admin, good once and for three days. The
    token leaves the address at once, for the session."""

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
        password_set(form.user, by=form.user)
        messages.success(self.request, _("Your password is set. Sign in with it."))
        return response
