"""What people are told when something is not to be had. Programs get JSON, from `llmapi.errors`."""

from datetime import timedelta
from math import ceil

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.middleware import is_api


def wants_page(request: HttpRequest) -> bool:
    """Whether a person asks, by a browser, for something that is not the API."""
    return not is_api(request.path_info) and "text/html" in request.headers.get("Accept", "")


def error_page(
    status: int, title: str, sentence: str, headers: dict[str, str] | None = None
) -> HttpResponse:
    """Neither the session nor the database is asked: they may be what failed."""
    context = {"status": status, "title": title, "sentence": sentence}
    body = render_to_string("pages/error.html", context)
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return HttpResponse(body, status=status, headers=headers)


def bad_request_page() -> HttpResponse:
    return error_page(
        400,
        _("This request could not be understood"),
        _("Go back and try again."),
    )


def not_allowed_page() -> HttpResponse:
    return error_page(
        403,
        _("This page is not for your account"),
        _("Sign in with another account, or ask the operator of this server for the right to it."),
    )


def form_too_old_page() -> HttpResponse:
    """The CSRF check failed: mostly a form from before a sign-in in another tab."""
    return error_page(
        403,
        _("This form is too old"),
        _(
            "Go back, load the page again and send the form once more. "
            "Your browser must allow cookies."
        ),
    )


def not_found_page() -> HttpResponse:
    return error_page(
        404,
        _("There is nothing here"),
        _("The address may be wrong, or what was here is gone, or it belongs to somebody else."),
    )


def server_error_page() -> HttpResponse:
    return error_page(
        500,
        _("The server met an unexpected error"),
        _("It has been logged. Try again in a moment."),
    )


def too_many_attempts(request: HttpRequest, wait: timedelta) -> HttpResponse:
    seconds = ceil(wait.total_seconds())
    minutes = ceil(seconds / 60)
    sentence = ngettext(
        "Wait for %(minutes)d minute, then try again.",
        "Wait for %(minutes)d minutes, then try again.",
        minutes,
    )
    return error_page(
        429,
        _("Too many attempts"),
        sentence % {"minutes": minutes},
        {"Retry-After": str(seconds)},
    )
