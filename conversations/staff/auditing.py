"""The audit log, to be read. Nobody changes it, not even superusers."""

from typing import Any

from django.contrib import admin
from django.contrib.admin import DateFieldListFilter
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from accounts.models import AuditEvent
from conversations.staff.columns import time_shown
from conversations.staff.filters import TextFilter
from conversations.staff.reading import HistoryAdmin

NOBODY = "(the server, or a command)"


class TimeFilter(DateFieldListFilter):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = "time"


class ActorFilter(TextFilter):
    title = "who (user name)"
    parameter_name = "actor"

    def condition(self, value: str) -> Q:
        return Q(actor__username__iexact=value)


@admin.register(AuditEvent)
class AuditEventAdmin(HistoryAdmin):
    list_display = ("time", "action", "target", "actor_shown", "address", "detail_shown")
    list_filter = ("action", ActorFilter, ("at", TimeFilter))
    shown_with = ("actor",)
    search_fields = ("target",)
    page_template = "admin/conversations/audit_event.html"

    def search_help(self, request: HttpRequest) -> str:
        return "What it was done to, from its beginning: the id of a conversation, “user alice”."

    def found(self, request: HttpRequest, queryset: QuerySet[Any], term: str) -> QuerySet[Any]:
        return queryset.filter(target__startswith=term)

    def page_context(self, request: HttpRequest, obj: AuditEvent) -> dict[str, Any]:
        return {"detail": self.detail_shown(obj), "actor": self.actor_shown(obj)}

    @admin.display(description="time (UTC)", ordering="at")
    def time(self, event: AuditEvent) -> str:
        return time_shown(event.at)

    @admin.display(description="by")
    def actor_shown(self, event: AuditEvent) -> str:
        return event.actor.get_username() if event.actor else NOBODY

    @admin.display(description="detail")
    def detail_shown(self, event: AuditEvent) -> str:
        return ", ".join(f"{name}: {_plain(value)}" for name, value in event.detail.items())

    class Media:
        css = {"all": ["conversations/history.css"]}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={part}" for name, part in value.items())
    return str(value)
