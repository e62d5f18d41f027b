"""Conversations: listed, read and judged, exported, erased; never changed."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts import audit
from accounts.models import AuditEvent
from conversations import selectors
from conversations.exports.jsonl import conversations_jsonl
from conversations.models import Conversation, Review
from conversations.staff.columns import badge, owner_shown, time_shown
from conversations.staff.erasing import ErasedConversations
from conversations.staff.exporting import ExportedAdmin
from conversations.staff.filters import (
    KeyFilter,
    LabelFilter,
    ModelFilter,
    OverCompletions,
    ReviewedFilter,
    ReviewerFilter,
    ScoreFilter,
    StatusFilter,
    UserFilter,
)
from conversations.staff.reading import may_export, may_read
from conversations.staff.reviewing import ReviewedAdmin, may_review, review_badge

MODELS_SHOWN = 3
"""Of one conversation, in the list."""


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

    def bounds_of(self, request: HttpRequest, changelist: Any) -> Iterator[str]:
        yield from super().bounds_of(request, changelist)
        for spec in changelist.filter_specs:
            if isinstance(spec, OverCompletions) and spec.leaves_out(request):
                yield (
                    f"Without a user, the {spec.title} is looked for in the newest "
                    f"{selectors.DEEPEST:,} such requests only."
                )

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
        return conversations_jsonl(rows)

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
    def models(self, conversation: Any) -> SafeString:
        names = conversation.summary.models
        shown = [(name, name) for name in names[:MODELS_SHOWN]]
        if len(names) > MODELS_SHOWN:
            shown.append((", ".join(names), f"{len(names) - MODELS_SHOWN} more"))
        spans = format_html_join("", '<span title="{}">{}</span>', shown)
        return format_html('<span class="history-models">{}</span>', spans)

    @admin.display(description="messages")
    def messages_count(self, conversation: Any) -> int:
        return conversation.summary.messages

    @admin.display(description="tokens")
    def tokens(self, conversation: Any) -> str:
        return f"{conversation.summary.prompt_tokens} + {conversation.summary.completion_tokens}"

    @admin.display(description="status")
    def last_status(self, conversation: Any) -> str:
        return badge(conversation.summary.last_status)

    @admin.display(description="updated", ordering="updated_at")
    def updated(self, conversation: Conversation) -> str:
        return time_shown(conversation.updated_at, seconds=False)

    class Media:
        css = {"all": ["conversations/history.css"]}
