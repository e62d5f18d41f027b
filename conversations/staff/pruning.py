"""Pruning by a page: what would go, then the same as `manage.py prune` does."""

import time
from dataclasses import asdict
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from accounts import audit
from accounts.models import AuditEvent
from conversations.retention.pruning import limits_now, prune, would_prune
from conversations.staff.reading import HistoryAdmin, may_erase

LONGEST_S = 20.0
"""So long one waits for the page; what is left then is pruned by the next one."""


class PrunedAdmin(HistoryAdmin):
    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.prune_view)
        return [path("prune/", view, name="conversations_prune"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"may_prune": may_erase(request), **(extra_context or {})}
        return super().changelist_view(request, context)

    def prune_view(self, request: HttpRequest) -> HttpResponse:
        if not (self.has_view_permission(request) and may_erase(request)):
            raise PermissionDenied
        limits = limits_now()
        if request.method == "POST" and limits:
            return self.prune_now(request)
        context = {
            **self.admin_site.each_context(request),
            "title": "Prune what is old",
            "opts": self.opts,
            "limits": limits,
            "would": would_prune(limits),
        }
        return TemplateResponse(request, "admin/conversations/prune.html", context)

    def prune_now(self, request: HttpRequest) -> HttpResponse:
        limits = limits_now()
        audit.record_for(
            request, AuditEvent.Action.PRUNE, "old rows, asked for", **asdict(would_prune(limits))
        )
        until = time.monotonic() + LONGEST_S
        pruned = prune(limits, should_stop=lambda: time.monotonic() > until)
        self.message_user(request, f"Pruned: {pruned}.", messages.SUCCESS)
        if time.monotonic() > until:
            self.message_user(request, "There may be more; go on below.", messages.WARNING)
            return HttpResponseRedirect(reverse("admin:conversations_prune"))
        return HttpResponseRedirect(reverse("admin:conversations_completion_changelist"))
