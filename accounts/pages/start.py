"""Where a user comes in: how to ask, the newest keys, and the way to everything else."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from accounts.offered import offered_models
from accounts.pages.access import page
from accounts.pages.allowances import account_holder, allowances
from accounts.pages.keys import own_keys, owner
from accounts.pages.snippets import api_address, snippets

KEYS_SHOWN = 4


@page
def start(request: HttpRequest) -> HttpResponse:
    usable = own_keys(request.user).filter(revoked_at=None)
    usable = usable.exclude(expires_at__lte=timezone.now())
    context = {
        "keys": usable[:KEYS_SHOWN],
        "base_url": api_address(request),
        "models": offered_models(),
        "snippets": snippets(request),
        "allowances": allowances(account_holder(owner(request))),
    }
    return render(request, "accounts/start.html", context)
