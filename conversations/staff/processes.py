"""Server processes: which of them live, and when the others ended."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone

from conversations.models import ServerProcess
from conversations.processes.presence import HEARTBEAT_DEAD_AFTER_S
from conversations.staff.columns import time_shown
from conversations.staff.reading import ShallowPaginator


@admin.register(ServerProcess)
class ServerProcessAdmin(admin.ModelAdmin):
    list_display = ("__str__", "state", "started", "heard")
    fields = readonly_fields = (
        *("uuid", "host", "pid", "state", "started_at", "heartbeat_at", "stopped_at"),
    )
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

    @admin.display(description="state")
    def state(self, process: ServerProcess) -> str:
        if process.stopped_at is not None:
            return f"stopped {time_shown(process.stopped_at)}"
        silent_s = (timezone.now() - process.heartbeat_at).total_seconds()
        return "alive" if silent_s <= HEARTBEAT_DEAD_AFTER_S else f"silent for {silent_s:.0f} s"

    @admin.display(description="started", ordering="started_at")
    def started(self, process: ServerProcess) -> str:
        return time_shown(process.started_at)

    @admin.display(description="last heard", ordering="heartbeat_at")
    def heard(self, process: ServerProcess) -> str:
        return time_shown(process.heartbeat_at)

    class Media:
        css = {"all": ["conversations/history.css"]}
