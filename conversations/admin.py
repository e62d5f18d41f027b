"""The history for staff: to be read, never to be changed, not even by superusers."""

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from conversations import selectors
from conversations.filters import KeyFilter, ModelFilter, StatusFilter, UserFilter
from conversations.models import Completion, Conversation, ServerProcess
from conversations.services import HEARTBEAT_DEAD_AFTER_S

LONGEST_SEARCH = 200


class ShallowPaginator(Paginator):
    """Counts to 10,000 and no further: nobody turns two hundred pages, and a full count reads the
    whole table."""

    deepest = selectors.DEEPEST

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[: self.deepest].count()


class HistoryAdmin(admin.ModelAdmin):
    """A list, and a page to read; no form, and no way to change anything."""

    actions = None
    list_per_page = 50
    list_max_show_all = 50
    ordering = ("-pk",)
    paginator = ShallowPaginator
    show_full_result_count = False
    # Counts beside the filters' choices would read the whole table once for each of them.
    show_facets = admin.ShowFacets.NEVER
    page_template = ""
    # A join would let SQLite begin with the few users, and sort all that they ever asked.
    list_select_related = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("user", "api_key")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page_context(self, obj: Any) -> dict[str, Any]:
        """What the page of `obj` shows, beside `obj` itself as `original`."""
        raise NotImplementedError

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
        context = {
            **self.admin_site.each_context(request),
            "title": str(obj),
            "opts": self.opts,
            "original": obj,
            **self.page_context(obj),
        }
        return TemplateResponse(request, self.page_template, context)

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
        pks = self.with_id(term)
        if pks:
            return queryset.filter(pk__in=pks), False
        found, are_more = selectors.newest_saying(queryset, self.search(term), self.ordering[0])
        if are_more:
            self.message_user(
                request,
                f"Only the newest {selectors.SEARCHED:,} of these were searched. Filter by user or "
                "date to look further back.",
                messages.INFO,
            )
        return found, False

    def with_id(self, term: str) -> list[int]:
        """Primary keys of what has this id."""
        raise NotImplementedError

    def search(self, term: str) -> Q:
        """What says this."""
        raise NotImplementedError


class ConversationList(ChangeList):
    """Adds each conversation's summary: a fixed number of queries for a page of them."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        summaries = selectors.conversation_summaries([row.pk for row in self.result_list])
        for row in self.result_list:
            row.summary = summaries[row.pk]


@admin.register(Conversation)
class ConversationAdmin(HistoryAdmin):
    list_display = (
        "title_shown",
        "last_status",
        "user",
        "key",
        "models",
        "messages_count",
        "tokens",
        "updated",
    )
    list_filter = (UserFilter, KeyFilter, ModelFilter, StatusFilter, "updated_at")
    ordering = ("-updated_at",)
    search_fields = ("title",)
    search_help_text = "Words of a message or title, or the id of a conversation or completion."
    page_template = "admin/conversations/conversation/transcript.html"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ConversationList

    def with_id(self, term: str) -> list[int]:
        return selectors.conversations_with_id(term)

    def search(self, term: str) -> Q:
        return Q(title__icontains=term) | selectors.conversations_saying(term)

    def page_context(self, obj: Conversation) -> dict[str, Any]:
        return {
            "entries": selectors.transcript(obj),
            "summary": selectors.conversation_summaries([obj.pk])[obj.pk],
        }

    @admin.display(description="conversation", ordering="title")
    def title_shown(self, conversation: Conversation) -> str:
        # Isolated: a title may hold marks that turn the direction of the text after it.
        return format_html("<bdi>{}</bdi>", conversation)

    @admin.display(description="key")
    def key(self, conversation: Conversation) -> str:
        return key_shown(conversation)

    @admin.display(description="model")
    def models(self, conversation: Any) -> str:
        return ", ".join(conversation.summary.models)

    @admin.display(description="messages")
    def messages_count(self, conversation: Any) -> int:
        return conversation.summary.messages

    @admin.display(description="tokens in + out")
    def tokens(self, conversation: Any) -> str:
        return f"{conversation.summary.prompt_tokens} + {conversation.summary.completion_tokens}"

    @admin.display(description="last status")
    def last_status(self, conversation: Any) -> str:
        return badge(conversation.summary.last_status)

    @admin.display(description="updated", ordering="updated_at")
    def updated(self, conversation: Conversation) -> str:
        return time_shown(conversation.updated_at)

    class Media:
        css = {"all": ["conversations/history.css"]}


@admin.register(Completion)
class CompletionAdmin(HistoryAdmin):
    list_display = (
        "public_id",
        "status_shown",
        "created",
        "kind",
        "user",
        "key",
        "model",
        "tokens",
        "duration",
    )
    list_filter = (UserFilter, KeyFilter, ModelFilter, "kind", StatusFilter, "created_at")
    # Not by primary key: the indexes of the filters end with the time.
    ordering = ("-created_at",)
    search_fields = ("public_id",)
    search_help_text = "Words of a prompt or answer, or the id of a completion or request."
    page_template = "admin/conversations/completion/page.html"

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Completion | None:
        if not object_id.isdecimal() or len(object_id) > 18:
            return None
        rows = selectors.completion_for_reading(self.get_queryset(request))
        return rows.filter(pk=object_id).first()

    def with_id(self, term: str) -> list[int]:
        return selectors.completions_with_id(term)

    def search(self, term: str) -> Q:
        return selectors.completions_saying(term)

    def page_context(self, obj: Completion) -> dict[str, Any]:
        content = getattr(obj, "content", None)
        head = obj.head
        return {
            "content": content,
            "prompts": selectors.prompt_texts(content.prompt) if content else [],
            "question": selectors.readable(head.content) if head else "",
            "answers": [
                (answer, selectors.readable(answer.content))
                for answer in obj.outputs.order_by("choice_index")
            ],
        }

    @admin.display(description="key")
    def key(self, completion: Completion) -> str:
        return key_shown(completion)

    @admin.display(description="tokens in + out")
    def tokens(self, completion: Completion) -> str:
        return f"{completion.prompt_tokens} + {completion.completion_tokens}"

    @admin.display(description="status", ordering="status")
    def status_shown(self, completion: Completion) -> str:
        return badge(completion.status)

    @admin.display(description="took", ordering="duration_ms")
    def duration(self, completion: Completion) -> str:
        return "" if completion.duration_ms is None else f"{completion.duration_ms / 1000:.2f} s"

    @admin.display(description="created", ordering="created_at")
    def created(self, completion: Completion) -> str:
        return time_shown(completion.created_at)

    class Media:
        css = {"all": ["conversations/history.css"]}


@admin.register(ServerProcess)
class ServerProcessAdmin(admin.ModelAdmin):
    list_display = ("uuid", "host_name", "pid", "started_at", "heartbeat_at", "stopped_at", "state")
    fields = readonly_fields = (*list_display, "host")
    ordering = ("-pk",)
    actions = None
    show_full_result_count = False
    paginator = ShallowPaginator

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="host")
    def host_name(self, process: ServerProcess) -> str:
        return process.host.split("/")[0]

    @admin.display(description="state")
    def state(self, process: ServerProcess) -> str:
        if process.stopped_at is not None:
            return "stopped"
        silent_s = (timezone.now() - process.heartbeat_at).total_seconds()
        return "alive" if silent_s <= HEARTBEAT_DEAD_AFTER_S else f"silent for {silent_s:.0f} s"


def key_shown(row: Conversation | Completion) -> str:
    key = row.api_key
    return "none" if key is None else key.name or key.masked


def time_shown(time: datetime) -> str:
    return f"{timezone.localtime(time):%Y-%m-%d %H:%M:%S}"


def badge(status: str) -> SafeString:
    return format_html('<span class="history-status" data-status="{0}">{0}</span>', status)
