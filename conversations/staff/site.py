"""Django's admin, whose first page says how the server does."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse

from conversations.staff.dashboard import dashboard


class StaffSite(admin.AdminSite):
    index_template = "admin/conversations/dashboard.html"

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """With the dashboard for those who may see completions."""
        context = dict(extra_context or {})
        if request.user.has_perm("conversations.view_completion"):
            context["dashboard"] = dashboard(request.GET.get("range"))
        return super().index(request, context)
