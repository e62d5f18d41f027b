"""What cells of the lists say."""

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.models import ApiKey


def owner_shown(row: Any) -> SafeString:
    """The user and the key of a request or conversation."""
    key: ApiKey | None = row.api_key
    return format_html(
        '<bdi>{}</bdi><br><bdi class="history-quiet">{}</bdi>',
        row.user.get_username(),
        "no key" if key is None else key.name or key.masked,
    )


def time_shown(time: datetime | None, *, seconds: bool = True) -> str:
    if time is None:
        return ""
    return timezone.localtime(time).strftime("%Y-%m-%d %H:%M" + (":%S" if seconds else ""))


def day_shown(time: datetime | None) -> SafeString | str:
    """Its day, and the rest of it for those who point at it."""
    if time is None:
        return ""
    return format_html('<span title="{0}">{1}</span>', time_shown(time), time_shown(time)[:10])


def badge(status: str) -> SafeString:
    return format_html('<span class="history-status" data-status="{0}">{0}</span>', status)
