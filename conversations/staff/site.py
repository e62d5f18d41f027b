"""Django's admin, whose first page says how the server does."""

from functools import wraps
from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse

from conversations.staff.dashboard import dashboard


class StaffSite(admin.AdminSite):
    index_template = "admin/conversations/dashboard.html"

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            check_ticked(request)
            return view(request, *args, **kwargs)

        return super().admin_view(checked, cacheable)

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """With the dashboard for those who may see completions."""
        context = dict(extra_context or {})
        if request.user.has_perm("conversations.view_completion"):
            context["dashboard"] = dashboard(request.GET.get("range"))
        return super().index(request, context)


def check_ticked(request: HttpRequest) -> None:
    """The rows that an action is for are named by their primary keys, which all are bigints.
    Django's lists take what comes, and end in a 500."""
    for value in request.POST.getlist(ACTION_CHECKBOX_NAME):
        if not value.isdecimal() or len(value) > 18:
            raise BadRequest("What is ticked is no row of this list.")
