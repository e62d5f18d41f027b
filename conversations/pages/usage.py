"""What a user has used, by day or hour."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts.models import User
from accounts.pages.access import page
from conversations import own_usage


@page
def usage(request: HttpRequest) -> HttpResponse:
    """?range= and ?by=: anything else than what is offered is the default."""
    user = request.user
    assert isinstance(user, User)
    chosen = request.GET.get("range", "")
    chosen = chosen if chosen in own_usage.RANGES else own_usage.DEFAULT_RANGE
    by = request.GET.get("by", "")
    by = by if by in own_usage.GROUPS else own_usage.DEFAULT_GROUP
    context = {
        "report": own_usage.report(user, own_usage.RANGES[chosen], by),
        "ranges": [(key, value.name) for key, value in own_usage.RANGES.items()],
        "groups": [(key, value[1]) for key, value in own_usage.GROUPS.items()],
        "chosen": chosen,
        "chosen_name": own_usage.RANGES[chosen].name,
        "by": by,
        "by_name": own_usage.GROUPS[by][1],
    }
    return render(request, "conversations/usage.html", context)
