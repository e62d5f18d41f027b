"""The lists of the history: conversations, and single requests."""

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render

from accounts.pages.access import page
from conversations.own import passages
from conversations.own.ownership import own_completions, own_conversations
from conversations.own.searching import completions_wanted, conversations_wanted
from conversations.pages.filter_form import FilterForm
from conversations.selectors import conversation_summaries
from conversations.storage import keyset


@page
def conversations(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET, user=request.user, with_kinds=False)
    found = keyset.Page([])
    if form.is_valid():
        if there := by_id(request, form.cleaned_data["q"]):
            return there
        wanted = form.wanted
        found = turned_to(
            request,
            wanted.limit(own_conversations(request.user).select_related("api_key"), "updated_at"),
            "updated_at",
            conversations_wanted(wanted),
        )
        pks = [row.pk for row in found.rows]
        summaries = conversation_summaries(pks) if pks else {}
        around = passages.passages(pks, wanted.words) if pks else {}
        for row in found.rows:
            row.summary = summaries[row.pk]
            passage = around.get(row.pk, "")
            if passage.strip("… ") not in row.title:  # else it says nothing new
                row.passage = [*passages.highlighted(passage, wanted.words)]
    return render(request, "conversations/history.html", context(request, "history", form, found))


@page
def requests(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET, user=request.user, with_kinds=True)
    found = keyset.Page([])
    if form.is_valid():
        if there := by_id(request, form.cleaned_data["q"]):
            return there
        wanted = form.wanted
        rows = own_completions(request.user).select_related("api_key", "conversation")
        found = turned_to(
            request,
            passages.with_excerpts(wanted.limit(rows, "created_at")),
            "created_at",
            completions_wanted(wanted),
        )
        for row in found.rows:
            row.excerpt = passages.excerpt(row)
    return render(request, "conversations/requests.html", context(request, "requests", form, found))


def turned_to(request: HttpRequest, rows: Any, field: str, matching: Any) -> keyset.Page:
    return keyset.page(
        rows,
        field,
        older=request.GET.get("older", ""),
        newer=request.GET.get("newer", ""),
        matching=matching,
    )


def by_id(request: HttpRequest, term: str) -> HttpResponseRedirect | None:
    """The page of what was searched for by its id."""
    if "_" not in term and "-" not in term:
        return None
    if own_conversations(request.user).filter(public_id=term).exists():
        return redirect("conversation", public_id=term)
    if own_completions(request.user).filter(public_id=term).exists():
        return redirect("request", public_id=term)
    return None


def context(
    request: HttpRequest, name: str, form: FilterForm, found: keyset.Page
) -> dict[str, Any]:
    asked = {
        name: value
        for name, value in request.GET.items()
        if value and name not in ("older", "newer")
    }

    def link(**changes: str) -> str:
        return f"?{urlencode({**asked, **changes})}"

    return {
        "list": name,
        "form": form,
        "found": found,
        "is_filtered": bool(asked),
        "older_link": link(older=found.older) if found.older else "",
        "newer_link": link(newer=found.newer) if found.newer else "",
        "newest_link": link() if asked else request.path,
    }
