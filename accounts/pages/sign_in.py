"""Signing in and out, for the pages and for the admin alike."""

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.addresses import client_address
from accounts.attempts import SIGN_IN, attempt_begin, attempt_succeeded
from accounts.models import User
from accounts.pages.throttled import ThrottledView
from accounts.services import playground_keys_end

WRONG = _("This username and password do not fit together. Both are case-sensitive.")


class SignInForm(AuthenticationForm):
    """One sentence for every refusal: it does not tell which names there are, or are not active."""

    def clean(self) -> dict[str, Any]:
        username, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not username or not password:
            return self.cleaned_data
        address = client_address(self.request) if self.request else ""
        attempt = attempt_begin(SIGN_IN, address=address, name=username)
        cleaned = super().clean()
        attempt_succeeded(attempt)
        return cleaned or {}

    def get_invalid_login_error(self) -> ValidationError:
        return ValidationError(WRONG, code="invalid_login")

    def confirm_login_allowed(self, user: Any) -> None:
        if not user.is_active or user.is_keyless:
            raise self.get_invalid_login_error()


class SignIn(ThrottledView, LoginView):
    """`next` leads to pages of this server alone; LoginView sees to that."""

    template_name = "accounts/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        is_open = settings.LLMAPI.sign_up == "open"
        return super().get_context_data(sign_up_is_open=is_open, **kwargs)


class SignOut(LogoutView):
    """Ends what the playground holds too, in whatever tab it is still open."""

    http_method_names = ["post", "options"]
    next_page = "sign_in"

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if isinstance(request.user, User):
            playground_keys_end(request.user)
        return super().post(request, *args, **kwargs)


def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """The admin sends here whoever may not see it: to sign in, or, without staff status, away."""
    if request.user.is_authenticated and not request.user.is_staff:
        raise PermissionDenied
    wanted = request.GET.get(REDIRECT_FIELD_NAME) or reverse("admin:index")
    return HttpResponseRedirect(f"{reverse('sign_in')}?{urlencode({'next': wanted})}")
