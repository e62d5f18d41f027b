"""Exports: of the ticked rows by an action, of all that a filter finds by a page. Each is in the
audit log before its first byte leaves."""

from collections.abc import Iterable, Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from accounts import audit
from accounts.models import AuditEvent
from conversations import selectors
from conversations.exports.streaming import export_begin
from conversations.staff.reading import HistoryAdmin
from conversations.storage.writing import write_transaction

WORDS = ("q", "label", "key")
"""Filters by words of a text, of a label or of a key's name: those can be erased, and the audit log
holds none of them."""


class ExportedAdmin(HistoryAdmin):
    """A list whose rows leave as a file. `export_format`: the ending of its name."""

    actions = ["export_selected"]
    change_list_template = "admin/conversations/list.html"
    export_format = ""
    export_type = ""
    export_holds = ""
    """In words: what the file has of each row."""

    def export_lines(self, rows: QuerySet[Any]) -> Iterator[str]:
        raise NotImplementedError

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Asked besides the right to see the list."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.export_view)
        name = f"conversations_{self.opts.model_name}_export"
        return [path("export/", view, name=name), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The way to the export takes the list's filters along."""
        context = {
            "export_query": request.GET.urlencode() if self.has_export_permission(request) else None
        }
        return super().changelist_view(request, {**context, **(extra_context or {})})

    @admin.action(description="Export the selected %(verbose_name_plural)s", permissions=["export"])
    def export_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponseBase:
        if request.POST.get("select_across") == "1":
            return self.export_page(request, queryset)
        rows = dict(queryset.values_list("pk", "public_id"))
        ticked = self.model._default_manager.filter(pk__in=rows)
        return self.file(request, ticked, targets=rows.values())

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """All that the list's filters and search in the address find."""
        if not (self.has_view_permission(request) and self.has_export_permission(request)):
            raise PermissionDenied
        try:
            queryset = self.get_changelist_instance(request).get_queryset(request)
        except IncorrectLookupParameters as error:
            raise BadRequest("A filter in the address is none.") from error
        if request.method != "POST":
            return self.export_page(request, queryset)
        filters = {
            name: "…" if name in WORDS else value
            for name, value in request.GET.items()
            if value and name != "p"
        }
        target = f"{self.opts.verbose_name_plural}, {'filtered' if filters else 'all'}"
        return self.file(request, queryset, targets=[target], filters=filters)

    def export_page(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        count = self.get_paginator(request, queryset, 1).count
        context = {
            **self.admin_site.each_context(request),
            "title": f"Export {self.opts.verbose_name_plural}",
            "opts": self.opts,
            "count": count,
            "is_more": count >= self.paginator.deepest,
            "filters": [
                (name.split("__")[0].replace("_", " "), value)
                for name, value in request.GET.items()
                if value and name not in ("o", "p")
            ],
            "query": request.GET.urlencode(),
            "format": self.export_format.upper(),
            "holds": self.export_holds,
            "bounded": self.is_bounded(request),
            "searched": selectors.SEARCHED,
            "deepest": selectors.DEEPEST,
        }
        return TemplateResponse(request, "admin/conversations/export.html", context)

    def is_bounded(self, request: HttpRequest) -> bool:
        """Whether a filter in the address looks at the newest rows only."""
        return bool(request.GET.get("q"))

    def file(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        *,
        targets: Iterable[str],
        **detail: Any,
    ) -> StreamingHttpResponse:
        """Noted in the audit log once it is sure that it begins: one that is refused is none."""
        name = str(self.opts.verbose_name_plural).replace(" ", "-")
        response = export_begin(
            request.user.pk,
            self.export_lines(queryset),
            content_type=self.export_type,
            filename=f"{name}-{timezone.now():%Y%m%d-%H%M%S}.{self.export_format}",
        )
        try:
            with write_transaction():
                for target in targets:
                    audit.record_for(
                        request,
                        AuditEvent.Action.EXPORT,
                        target,
                        format=self.export_format,
                        **detail,
                    )
        except BaseException:
            response.close()
            raise
        return response
