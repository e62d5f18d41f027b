"""What all lists and pages of the history have in common: they are read, and nothing is changed."""

from collections.abc import Iterator
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.functional import cached_property

from accounts.lookups import FilteredAlone
from accounts.models import User
from conversations import selectors

LONGEST_SEARCH = 200


def may_read(request: HttpRequest) -> bool:
    """Whether they see what was said. Who may not sees of a text neither its words nor whether it
    has any: no title, no search by words, no error, parameter or label that a client wrote."""
    assert isinstance(request.user, User)
    return request.user.has_perm("conversations.read_text")


def may_export(request: HttpRequest) -> bool:
    assert isinstance(request.user, User)
    return request.user.has_perm("conversations.export_text")


def may_erase(request: HttpRequest) -> bool:
    assert isinstance(request.user, User)
    return request.user.has_perm("conversations.erase_text")


class ShallowPaginator(Paginator):
    """Counts to 10,000 and no further: nobody turns two hundred pages, and a full count reads the
    whole table."""

    deepest = selectors.DEEPEST

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[: self.deepest].count()


class HistoryAdmin(FilteredAlone, admin.ModelAdmin):
    """A list, and a page to read; no form, and no way to change anything."""

    list_per_page = 50
    list_max_show_all = 50
    ordering = ("-pk",)
    paginator = ShallowPaginator
    show_full_result_count = False
    # Counts beside the filters' choices would read the whole table once for each of them.
    show_facets = admin.ShowFacets.NEVER
    page_template = ""
    # A join would let SQLite begin with the few users, and sort all that they ever asked.
    list_select_related: ClassVar[Any] = ()

    shown_with: tuple[str, ...] = ("user", "api_key")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related(*self.shown_with)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """What the page of `obj` shows, beside `obj` itself as `original`."""
        raise NotImplementedError

    def page(self, request: HttpRequest, obj: Any, **context: Any) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": str(obj),
            "opts": self.opts,
            "original": obj,
            **self.page_context(request, obj),
            **context,
        }
        return TemplateResponse(request, self.page_template, context)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        obj = self.get_object(request, unquote(object_id)) if object_id else None
        is_read = request.method in ("GET", "HEAD")
        if object_id is None or not is_read or not self.has_view_permission(request, obj):
            raise PermissionDenied
        if obj is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined]
        return self.page(request, obj)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        said = [self.search_help(request), *self.bounds_of(request, changelist)]
        changelist.search_help_text = " ".join(said)
        return changelist

    def bounds_of(self, request: HttpRequest, changelist: Any) -> Iterator[str]:
        """Where this list ends before what there is does, in words."""
        if changelist.result_count >= self.paginator.deepest:
            yield f"The count and the pages end at {self.paginator.deepest:,}."

    def search_help(self, request: HttpRequest) -> str:
        """What one may search for."""
        raise NotImplementedError

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if len(term) > LONGEST_SEARCH:
            self.message_user(
                request,
                f"Search for {LONGEST_SEARCH} characters at most, please.",
                messages.WARNING,
            )
            return queryset.none(), False
        return self.found(request, queryset, term), False

    def found(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        """What has this id; else, for who may read, what says this."""
        pks = self.with_id(term)
        if pks or not may_read(request):
            return queryset.filter(pk__in=pks)
        found, are_more = selectors.newest_saying(queryset, self.saying(term), self.ordering[0])
        if are_more:
            self.message_user(
                request,
                f"Only the newest {selectors.SEARCHED:,} of these were searched. Filter by user or "
                "date to look further back.",
                messages.INFO,
            )
        return found

    def with_id(self, term: str) -> list[int]:
        """Primary keys of what has this id."""
        raise NotImplementedError

    def saying(self, term: str) -> Q:
        """What says this."""
        raise NotImplementedError
