"""Who may open a page: users who are signed in, by a session. The API takes no session."""

from collections.abc import Callable
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponseBase
from django.views.decorators.cache import never_cache

View = Callable[..., HttpResponseBase]


def page(view: Any) -> Any:
    """A page for users: others are asked to sign in first and then come back. What is on it stays
    in no cache, so that nobody sees it by the back button after the sign-out."""
    return never_cache(login_required(view))
