"""Django's admin, whose first page says how the server does."""

from functools import update_wrapper
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import TO_FIELD_VAR
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.template.response import TemplateResponse

from conversations.staff.dashboard import dashboard


class StaffSite(admin.AdminSite):
    index_template = "admin/conversations/dashboard.html"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Django looks for a field by the name that the address or the form gives, which it checks
        before, but not whether there is one."""
        inner = super().admin_view(view, cacheable)

        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if "" in (request.GET.get(TO_FIELD_VAR), request.POST.get(TO_FIELD_VAR)):
                raise BadRequest(f"{TO_FIELD_VAR} names no field.")
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
