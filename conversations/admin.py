"""The history for staff: to be read, judged, exported and erased, never to be changed; by whom, say
their rights (`conversations.staff`)."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from accounts import audit
from accounts.models import AuditEvent
from conversations import exporting, selectors
from conversations.filters import (
    KeyFilter,
    LabelFilter,
    ModelFilter,
    ReviewedFilter,
    ReviewerFilter,
    ScoreFilter,
    StatusFilter,
    UserFilter,
)
from conversations.models import Completion, Conversation, Label, Review, ServerProcess
from conversations.processes.presence import HEARTBEAT_DEAD_AFTER_S
from conversations.staff import auditing, owners  # noqa: F401  # they register their own pages
from conversations.staff.erasing import ErasedCompletions, ErasedConversations
from conversations.staff.exporting import ExportedAdmin
from conversations.staff.pruning import PrunedAdmin
from conversations.staff.reading import (
    ShallowPaginator,
    badge,
    may_export,
    may_read,
    owner_shown,
    time_shown,
)
from conversations.staff.reviewing import ReviewedAdmin, may_review


class ConversationList(ChangeList):
    """Adds each conversation's summary and review: a fixed number of queries for a page of them."""

    def get_queryset(self, request: HttpRequest, *args: Any) -> QuerySet[Any]:
        return super().get_queryset(request, *args).defer("metadata")

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        pks = [row.pk for row in self.result_list]
        summaries = selectors.conversation_summaries(pks)
        reviews = Review.objects.filter(pk__in=pks).defer("notes").prefetch_related("labels")
        review_of = {review.pk: review for review in reviews.select_related("reviewer")}
        for row in self.result_list:
            row.summary = summaries[row.pk]
            row.judged = review_of.get(row.pk)
            row.shows_labels = may_read(request)


@admin.register(Conversation)
class ConversationAdmin(ReviewedAdmin, ErasedConversations, ExportedAdmin):
    list_display = (
        "title_shown",
        "public_id",
        "last_status",
        "review_shown",
        "owner",
        "models",
        "messages_count",
        "tokens",
        "updated",
    )
    list_filter = (
        ReviewedFilter,
        UserFilter,
        KeyFilter,
        ModelFilter,
        StatusFilter,
        "updated_at",
        ScoreFilter,
        LabelFilter,
        ReviewerFilter,
    )
    ordering = ("-updated_at",)
    search_fields = ("public_id",)
    actions = ["export_selected", "erase_selected"]
    page_template = "admin/conversations/conversation/transcript.html"
    export_format = "jsonl"
    export_type = "application/jsonl"
    export_holds = "all messages as a tree, with model, finish reason and the review"

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ConversationList

    def get_list_filter(self, request: HttpRequest) -> Any:
        """A label is a reviewer's word about what was said."""
        filters = super().get_list_filter(request)
        return [f for f in filters if f is not LabelFilter or may_read(request)]

    def get_list_display(self, request: HttpRequest) -> Any:
        """A title is the first words of what was said."""
        hidden = "public_id" if may_read(request) else "title_shown"
        return [name for name in self.list_display if name != hidden]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        context = {"may_review": may_review(request), **(extra_context or {})}
        return super().changelist_view(request, context)

    def search_help(self, request: HttpRequest) -> str:
        ids = "the id of a conversation or completion"
        return f"Words of a message or title, or {ids}." if may_read(request) else f"By {ids}."

    def with_id(self, term: str) -> list[int]:
        return selectors.conversations_with_id(term)

    def saying(self, term: str) -> Q:
        return Q(title__icontains=term) | selectors.conversations_saying(term)

    def page_context(self, request: HttpRequest, obj: Conversation) -> dict[str, Any]:
        context = {
            "summary": selectors.conversation_summaries([obj.pk])[obj.pk],
            "may_read": may_read(request),
        }
        if not may_read(request):
            return {**context, "requests": selectors.conversation_requests(obj)}
        audit.record_for(
            request, AuditEvent.Action.READ, obj.public_id, user=obj.user.get_username()
        )
        return {
            **context,
            "title": obj.title or obj.public_id,
            "entries": selectors.transcript(obj),
            **self.review_context(request, obj),
        }

    # ---- export ----------------------------------------------------------------------------------

    def has_export_permission(self, request: HttpRequest) -> bool:
        return may_export(request)

    def is_bounded(self, request: HttpRequest) -> bool:
        by_requests = any(request.GET.get(name) for name in ("model", "status"))
        return super().is_bounded(request) or (by_requests and not request.GET.get("user"))

    def export_lines(self, rows: QuerySet[Conversation]) -> Any:
        return exporting.conversations_jsonl(rows)

    # ---- columns ---------------------------------------------------------------------------------

    @admin.display(description="conversation", ordering="title")
    def title_shown(self, conversation: Conversation) -> str:
        # Isolated: a title may hold marks that turn the direction of the text after it.
        return format_html("<bdi>{}</bdi>", conversation.title or conversation.public_id)

    @admin.display(description="review")
    def review_shown(self, conversation: Any) -> SafeString:
        return review_badge(conversation)

    @admin.display(description="user, key", ordering="user")
    def owner(self, conversation: Conversation) -> SafeString:
        return owner_shown(conversation)

    @admin.display(description="model")
    def models(self, conversation: Any) -> str:
        return ", ".join(conversation.summary.models)

    @admin.display(description="messages")
    def messages_count(self, conversation: Any) -> int:
        return conversation.summary.messages

    @admin.display(description="tokens")
    def tokens(self, conversation: Any) -> str:
        return f"{conversation.summary.prompt_tokens} + {conversation.summary.completion_tokens}"

    @admin.display(description="last status")
    def last_status(self, conversation: Any) -> str:
        return badge(conversation.summary.last_status)

    @admin.display(description="updated", ordering="updated_at")
    def updated(self, conversation: Conversation) -> str:
        return time_shown(conversation.updated_at, seconds=False)

    class Media:
        css = {"all": ["conversations/history.css"]}


@admin.register(Completion)
class CompletionAdmin(PrunedAdmin, ErasedCompletions, ExportedAdmin):
    list_display = (
        "public_id",
        "status_shown",
        "created",
        "kind",
        "owner",
        "model",
        "tokens",
        "duration",
    )
    list_filter = (UserFilter, KeyFilter, ModelFilter, "kind", StatusFilter, "created_at")
    # Not by primary key: the indexes of the filters end with the time.
    ordering = ("-created_at",)
    search_fields = ("public_id",)
    actions = ["export_selected", "erase_selected"]
    page_template = "admin/conversations/completion/page.html"
    export_format = "csv"
    export_type = "text/csv"
    export_holds = "user, key, model, tokens, times and status, and nothing of what was said"

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Completion | None:
        if not object_id.isdecimal() or len(object_id) > 18:
            return None
        rows = self.get_queryset(request)
        read = (
            selectors.completion_for_reading
            if may_read(request)
            else selectors.completion_without_text
        )
        return read(rows).filter(pk=object_id).first()

    def search_help(self, request: HttpRequest) -> str:
        ids = "the id of a completion or request"
        return f"Words of a prompt or answer, or {ids}." if may_read(request) else f"By {ids}."

    def with_id(self, term: str) -> list[int]:
        return selectors.completions_with_id(term)

    def saying(self, term: str) -> Q:
        return selectors.completions_saying(term)

    def page_context(self, request: HttpRequest, obj: Completion) -> dict[str, Any]:
        if not may_read(request):
            return {"may_read": False}
        audit.record_for(
            request, AuditEvent.Action.READ, obj.public_id, user=obj.user.get_username()
        )
        content = getattr(obj, "content", None)
        head = obj.head
        return {
            "may_read": True,
            "content": content,
            "prompts": selectors.prompt_texts(content.prompt) if content else [],
            "question": selectors.readable(head.content) if head else "",
            "answers": [
                (answer, selectors.readable(answer.content))
                for answer in obj.outputs.order_by("choice_index")
            ],
        }

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Whoever sees the list, and the users whom it names, may take it along: there is no text
        in it."""
        may_see_users = request.user.has_perm("accounts.view_user")
        return may_see_users and self.has_view_permission(request)

    def export_lines(self, rows: QuerySet[Completion]) -> Any:
        return exporting.completions_csv(rows)

    @admin.display(description="user, key", ordering="user")
    def owner(self, completion: Completion) -> SafeString:
        return owner_shown(completion)

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


@admin.register(Label)
class LabelAdmin(admin.ModelAdmin):
    """The words of reviewers. Renamed, a label has the new name on all that it is on."""

    list_display = ("name", "reviews_count")
    search_fields = ("name",)
    ordering = ("name",)
    fields = ("name",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Label]:
        return super().get_queryset(request).annotate(count=Count("reviews"))

    @admin.display(description="conversations", ordering="count")
    def reviews_count(self, label: Any) -> SafeString:
        url = reverse("admin:conversations_conversation_changelist")
        query = urlencode({"label": label.name})
        return format_html('<a href="{}?{}">{}</a>', url, query, label.count)


def review_badge(conversation: Any) -> SafeString:
    """Its score and labels, and that it is to be looked at (again)."""
    review = conversation.judged
    shown = conversation.shows_labels and review is not None
    words = [label.name for label in review.labels.all()] if shown else []
    if review is not None and review.score is not None:
        words.insert(0, f"{review.score}/5")
    if conversation.reviewed_at is None:
        words.insert(0, "gone on" if review else "unreviewed")
    elif not words:
        words = ["seen"]
    return format_html(
        '<span class="history-review" data-reviewed="{}">{}</span>',
        "no" if conversation.reviewed_at is None else "yes",
        " · ".join(words),
    )
