"""What the templates of history and usage ask for."""

from typing import Any

from django import template
from django.utils.translation import gettext_lazy as _

from conversations.models import Completion
from conversations.own.blocks import Block, blocks, is_long
from conversations.pages.filter_form import KINDS

register = template.Library()

Status = Completion.Status
STATUSES: dict[str, tuple[Any, str]] = {
    Status.RUNNING: (_("Running"), "accent"),
    Status.COMPLETED: (_("Completed"), "good"),
    Status.CANCELLED: (_("Cancelled"), "warn"),
    Status.INTERRUPTED: (_("Interrupted"), "bad"),
    Status.FAILED: (_("Failed"), "bad"),
}
"""Status: (name, tone)."""

EXPLAINED: dict[str, Any] = {
    Status.RUNNING: _("Still being answered."),
    Status.CANCELLED: _("The client left before the end: this is what came until then."),
    Status.INTERRUPTED: _("The server ended in the middle: this is what was kept."),
    Status.FAILED: _("It ended by an error."),
}
ROLES: dict[str, Any] = {
    "system": _("System"),
    "developer": _("Developer"),
    "user": _("User"),
    "assistant": _("Assistant"),
    "tool": _("Tool"),
    "function": _("Function"),
}


@register.filter
def status_name(status: str) -> Any:
    return STATUSES[status][0] if status in STATUSES else status


@register.filter
def status_tone(status: str) -> str:
    return STATUSES[status][1] if status in STATUSES else ""


@register.filter
def status_explained(status: str) -> Any:
    return EXPLAINED.get(status, "")


@register.filter
def role_name(role: str) -> Any:
    return ROLES.get(role, role)


@register.filter
def kind_name(kind: str) -> Any:
    return KINDS.get(kind, kind)  # type: ignore[call-overload]


@register.filter
def in_blocks(text: str) -> list[Block]:
    """The text with its code set apart."""
    return blocks(text)


@register.filter
def is_folded(text: str) -> bool:
    """Whether the page shows the beginning alone, until it is asked for more."""
    return is_long(text)


@register.filter
def seconds(milliseconds: float | None) -> str:
    """345 -> 0.35 s; 12345 -> 12.3 s."""
    if milliseconds is None:
        return ""
    value = milliseconds / 1000
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
