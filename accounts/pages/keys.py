"""A user's own keys. Those of others do not exist here, nor do those of the playground."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import services
from accounts.models import ApiKey, User
from accounts.offered import offered_models, unknown_among
from accounts.pages.access import page
from accounts.pages.allowances import allowances, key_holder
from accounts.pages.key_forms import NameForm, NewKeyForm, RotateForm
from accounts.pages.once import form_token, is_taken, take
from accounts.pages.snippets import snippets

MOST_ENDED = 100


def own_keys(user: Any) -> QuerySet[ApiKey]:
    """Newest first."""
    return (
        ApiKey.objects.filter(user=user, for_playground=False)
        .select_related("user", "replaced_by")
        .order_by("-pk")
    )


@page
def keys(request: HttpRequest) -> HttpResponse:
    now = timezone.now()
    own = own_keys(request.user)
    usable = [*own.filter(revoked_at=None).exclude(expires_at__lte=now)]
    ended = own.exclude(pk__in=[key.pk for key in usable])[:MOST_ENDED]
    return render(request, "accounts/keys.html", {"usable": usable, "ended": ended})


@page
def new(request: HttpRequest) -> HttpResponse:
    user = owner(request)
    form = NewKeyForm(request.POST or None, user=user)
    if request.method == "POST":
        if repeated := refuse_repeated(request):
            return repeated
        if form.is_valid():
            key, text = services.key_create(user=user, created_by=user, **form.wanted())
            return shown_once(request, key, text, _("Your new key"))
    context = {"form": form, "form_token": form_token()}
    return render(request, "accounts/key_new.html", context)


@page
def key(request: HttpRequest, public_id: str) -> HttpResponse:
    """The facts of a key, and its name, which may be changed."""
    key = find(request, public_id)
    # Another instance: a name that is refused must not stand in the heading.
    form = NameForm(request.POST or None, instance=find(request, public_id))
    if request.method == "POST" and form.is_valid():
        services.key_rename(key, form.cleaned_data["name"])
        messages.success(request, _("The key is renamed."))
        return redirect("key", public_id=public_id)
    context = {
        "key": key,
        "form": form,
        "replaces": key.replaces.order_by("-pk").first(),
        "allowances": allowances(key_holder(key)) if key.is_usable else [],
    }
    return render(request, "accounts/key.html", context)


@page
def revoke(request: HttpRequest, public_id: str) -> HttpResponse:
    key = find(request, public_id)
    if request.method == "POST":
        services.key_revoke(key)
        messages.success(
            request, _("The key “%(name)s” is revoked.") % {"name": key.name or key.masked}
        )
        return redirect("keys")
    return render(request, "accounts/key_revoke.html", {"key": key})


@page
def rotate(request: HttpRequest, public_id: str) -> HttpResponse:
    key = find(request, public_id)
    form = RotateForm(request.POST or None)
    if request.method == "POST":
        if repeated := refuse_repeated(request):
            return repeated
        if form.is_valid():
            try:
                fresh, text = services.key_rotate(key, form.duration, created_by=owner(request))
            except ValidationError:
                form.add_error(None, _("This key has ended or was replaced already."))
            else:
                return shown_once(request, fresh, text, _("The key that takes its place"), key)
    context = {"key": key, "form": form, "form_token": form_token()}
    return render(request, "accounts/key_rotate.html", context)


def owner(request: HttpRequest) -> User:
    user = request.user
    assert isinstance(user, User)
    return user


def find(request: HttpRequest, public_id: str) -> ApiKey:
    return get_object_or_404(own_keys(request.user), public_id=public_id)


def refuse_repeated(request: HttpRequest) -> HttpResponseRedirect | None:
    """A form that was taken before, sent again by loading its answer again."""
    if not is_taken(request, request.POST.get("form_token", "")):
        return None
    messages.warning(
        request, _("This form was sent before, and the key that it made was shown then.")
    )
    return HttpResponseRedirect(reverse("keys"))


def shown_once(
    request: HttpRequest, key: ApiKey, text: str, title: str, old: ApiKey | None = None
) -> HttpResponse:
    """The only answer that the key is ever in."""
    take(request, request.POST.get("form_token", ""))
    if old is not None:
        old.refresh_from_db()
    context = {
        "key": key,
        "key_text": text,
        "title": title,
        "old": old,
        "not_served": unknown_among(key.allowed_models, offered_models()),
        "snippets": snippets(request, key, text),
    }
    return render(request, "accounts/key_made.html", context)
