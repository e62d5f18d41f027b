"""The words of reviewers."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from conversations.models import Label


@admin.register(Label)
class LabelAdmin(admin.ModelAdmin):
    """Renamed, a label has the new name on all that it is on."""

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
