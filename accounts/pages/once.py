"""Forms that make something are taken once.

The answer that shows a new key is the answer to the form itself, so that the key is kept nowhere;
whoever loads that answer again sends the form again, and would get a second key.
"""

import secrets

from django.http import HttpRequest

SESSION_KEY = "forms_taken"
REMEMBERED = 20


def form_token() -> str:
    """For a hidden field of a new form."""
    return secrets.token_urlsafe(12)


def is_taken(request: HttpRequest, token: str) -> bool:
    """Whether this form was taken before."""
    return token in request.session.get(SESSION_KEY, [])


def take(request: HttpRequest, token: str) -> None:
    """Notes that this form has done its work."""
    taken = request.session.get(SESSION_KEY, [])
    request.session[SESSION_KEY] = [*taken, token][-REMEMBERED:]
