"""Server processes: which of them live, and when the others ended."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone

from conversations.models import ServerProcess
from conversations.processes.presence import HEARTBEAT_DEAD_AFTER_S
from conversations.staff.reading import ShallowPaginator


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
