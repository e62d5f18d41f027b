"""What a user has used, by day or hour."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from accounts.models import ApiKey, User
from accounts.pages.access import page
from accounts.pages.allowances import Allowance, account_holder, allowances, key_holder
from accounts.pages.keys import own_keys
from conversations.own import usage as own_usage

MOST_KEYS = 10
"""Whose limits are shown: each is looked up by itself. All keys are on their own page."""


@page
def usage(request: HttpRequest) -> HttpResponse:
    """?range= and ?by=: anything else than what is offered is the default."""
    user = request.user
    assert isinstance(user, User)
    chosen = request.GET.get("range", "")
    chosen = chosen if chosen in own_usage.SPANS else own_usage.DEFAULT_SPAN
    by = request.GET.get("by", "")
    by = by if by in own_usage.GROUPS else own_usage.DEFAULT_GROUP
    context = {
        "report": own_usage.report(user, own_usage.SPANS[chosen], by),
        "ranges": [(key, value.name) for key, value in own_usage.SPANS.items()],
        "groups": [(key, value[1]) for key, value in own_usage.GROUPS.items()],
        "chosen": chosen,
        "chosen_name": own_usage.SPANS[chosen].name,
        "by": by,
        "by_name": own_usage.GROUPS[by][1],
        "own_limits": allowances(account_holder(user)),
        "key_limits": key_limits(user),
    }
    return render(request, "conversations/usage.html", context)


def key_limits(user: User) -> list[tuple[ApiKey, list[Allowance]]]:
    """The newest usable keys that have limits of their own, and what is used of these."""
    usable = own_keys(user).filter(revoked_at=None).exclude(expires_at__lte=timezone.now())
    limited = [(key, holder) for key in usable if (holder := key_holder(key)) is not None]
    return [(key, allowances(holder)) for key, holder in limited[:MOST_KEYS]]
