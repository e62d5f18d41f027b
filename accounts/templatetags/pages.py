"""What templates of pages ask for: the navigation, and times."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from accounts.models import ApiKey, Scope

register = template.Library()

SECTIONS = (
    ("playground", _("Playground")),
    ("history", _("History")),
    ("usage", _("Usage")),
    ("keys", _("Keys")),
)
"""URL name and title, in the order of the header. One whose route does not exist is left out."""


@dataclass(frozen=True)
class Section:
    name: str
    title: Any
    url: str
    is_current: bool


@register.simple_tag(takes_context=True)
def sections(context: Any) -> list[Section]:
    """The header's links; the section that the page's address lies in is the current one."""
    request = context.get("request")
    path = request.path if request else ""
    found = []
    for name, title in SECTIONS:
        try:
            url = reverse(name)
        except NoReverseMatch:
            continue
        found.append(Section(name, title, url, path.startswith(url)))
    return found


@register.filter
def moment(at: datetime | None) -> SafeString | str:
    """A time as `<time>`: in UTC, until local-time.js turns it into the reader's own."""
    if at is None:
        return ""
    at = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}">{}</time>', f"{at:%Y-%m-%dT%H:%M:%SZ}", f"{at:%Y-%m-%d %H:%M} UTC"
    )


@register.filter
def scope_names(key: ApiKey) -> list[Any]:
    """What the key may be used for, in words; a value that this version does not know as it is."""
    words = dict(Scope.choices)
    return [words.get(scope, scope) for scope in key.scopes]


@register.filter
def grouped(number: int | None) -> str:
    """1234567 -> 1,234,567."""
    return "" if number is None else f"{number:,}"
