"""Requests: listed, read, exported, erased, pruned; never changed."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from accounts import audit
from accounts.models import AuditEvent
from conversations import selectors
from conversations.exports.spreadsheet import completions_csv
from conversations.models import Completion
from conversations.staff.columns import badge, owner_shown, time_shown
from conversations.staff.erasing import ErasedCompletions
from conversations.staff.exporting import ExportedAdmin
from conversations.staff.filters import KeyFilter, ModelFilter, StatusFilter, UserFilter
from conversations.staff.pruning import PrunedAdmin
from conversations.staff.reading import may_read
from conversations.tree.said import prompt_texts, readable


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
            "prompts": prompt_texts(content.prompt) if content else [],
            "question": readable(head.content) if head else "",
            "answers": [
                (answer, readable(answer.content))
                for answer in obj.outputs.order_by("choice_index")
            ],
        }

    def has_export_permission(self, request: HttpRequest) -> bool:
        """Whoever sees the list, and the users whom it names, may take it along: there is no text
        in it."""
        may_see_users = request.user.has_perm("accounts.view_user")
        return may_see_users and self.has_view_permission(request)

    def export_lines(self, rows: QuerySet[Completion]) -> Any:
        return completions_csv(rows)

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
