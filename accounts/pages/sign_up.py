"""Becoming a user: by an invitation, or, where the operator opened it, by oneself."""

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.forms import UserCreationForm
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from accounts import links
from accounts.addresses import client_address
from accounts.attempts import SIGN_UP, TooManyAttempts, attempt_begin
from accounts.models import ANONYMOUS_USERNAME, Invitation, User
from accounts.pages.errors import error_page, too_many_attempts

TAKEN = gettext_lazy("This username is taken.")


class SignUpForm(UserCreationForm):
    """Names that differ from another's in their case alone are taken."""

    class Meta(UserCreationForm.Meta):
        model = User
        fields = ("username",)

    def clean_username(self) -> str:
        username = self.cleaned_data["username"]
        # Not there until the first request without a key; whoever had it would have their history.
        if username.casefold() == ANONYMOUS_USERNAME:
            raise ValidationError(TAKEN)
        if User.objects.filter(username__iexact=username).exists():
            raise ValidationError(TAKEN)
        return str(username)

    def save_new(self, invitation: Invitation | None) -> User:
        """Raises ValidationError if somebody was faster with this name, or InvitationVoid."""
        user: User = self.save(commit=False)
        try:
            if invitation is None:
                with transaction.atomic():
                    user.save(force_insert=True)
            else:
                links.invitation_accept(invitation, user)
        except IntegrityError as error:
            raise ValidationError(TAKEN) from error
        return user


@never_cache
@sensitive_post_parameters()
def sign_up(request: HttpRequest, token: str | None = None) -> HttpResponse:
    """Without a token: for everybody, where sign-up is open."""
    mode = settings.LLMAPI.sign_up
    if mode == "closed" or (mode == "invitation" and token is None):
        return closed_page(mode)
    if request.user.is_authenticated:
        return HttpResponseRedirect(reverse("start"))
    invitation = None if token is None else links.invitation_find(token)
    if token is not None and invitation is None:
        return void_page()
    if request.method != "POST":
        return answer(request, SignUpForm())
    try:
        attempt_begin(SIGN_UP, address=client_address(request), name="")
        form = SignUpForm(request.POST)
        if form.is_valid():
            return welcome(request, form.save_new(invitation))
    except TooManyAttempts as refusal:
        return too_many_attempts(request, refusal.wait)
    except links.InvitationVoid:
        return void_page()
    except ValidationError as error:
        form.add_error("username", error)
    return answer(request, form)


def answer(request: HttpRequest, form: forms.Form | Any) -> HttpResponse:
    return render(request, "accounts/sign_up.html", {"form": form})


def welcome(request: HttpRequest, user: User) -> HttpResponse:
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    messages.success(request, _("Welcome. Make a key, and you can begin."))
    return HttpResponseRedirect(reverse("start"))


def closed_page(mode: str) -> HttpResponse:
    if mode == "invitation":
        sentence = _("Ask the operator of this server for an invitation link.")
    else:
        sentence = _("Ask the operator of this server for an account.")
    return error_page(403, _("Sign-up is not open here"), sentence)


def void_page() -> HttpResponse:
    return error_page(
        410,
        _("This invitation is not valid any more"),
        _("It was used, or it has expired. Ask whoever sent it for another one."),
    )
