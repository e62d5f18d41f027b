"""Django's admin, whose first page says how the server does."""

import re
from functools import update_wrapper
from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import TO_FIELD_VAR
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.template.response import TemplateResponse

from conversations.staff.dashboard import dashboard

PRIMARY_KEY = re.compile("[0-9]{1,18}")


class StaffSite(admin.AdminSite):
    index_template = "admin/conversations/dashboard.html"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """What Django's views ask the database for unseen: a field of no name, and rows that are
        ticked by what is no number."""
        inner = super().admin_view(view, cacheable)

        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if "" in (request.GET.get(TO_FIELD_VAR), request.POST.get(TO_FIELD_VAR)):
                raise BadRequest(f"{TO_FIELD_VAR} names no field.")
            if not all(map(PRIMARY_KEY.fullmatch, request.POST.getlist(ACTION_CHECKBOX_NAME))):
                raise BadRequest(f"{ACTION_CHECKBOX_NAME} is the number of a row.")
            return inner(request, *args, **kwargs)

        return update_wrapper(checked, inner)

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """With the dashboard for those who may see completions."""
        context = dict(extra_context or {})
        if request.user.has_perm("conversations.view_completion"):
            context["dashboard"] = dashboard(request.GET.get("range"))
        return super().index(request, context)
