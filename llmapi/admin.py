"""Adapters for staff: what is served, and what was added; by the same rules as the API."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.errors import ApiError
from llmapi import adapters
from llmapi.models import Adapter


class AdapterForm(forms.ModelForm):
    """Valid when the engine serves it: that it cannot is told beside the form."""

    user: Any
    """Who fills it in."""

    class Meta:
        model = Adapter
        fields = ["name", "path"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["path"] = forms.ChoiceField(
            label="Directory",
            choices=[(path, path) for path in adapters.directories()],
            help_text="Those below LLMAPI_ADAPTERS_DIR with an adapter_config.json.",
        )

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            self.instance = adapters.adapter_add(**self.cleaned_data, by=self.user)
        except ApiError as error:
            self.add_error(error.param if error.param in self.fields else None, error.message)


@admin.register(Adapter)
class AdapterAdmin(admin.ModelAdmin):
    """What one may do here by form, one's key may do by the API. The service writes the log
    entries, for both."""

    list_display = ["name", "state", "path", "added_by", "added_at"]
    list_select_related = ["added_by"]
    actions = ["remove"]
    show_full_result_count = False
    change_list_template = "admin/llmapi/adapter/list.html"

    # ---- who may do what ------------------------------------------------------------------------

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("llmapi.view_adapter")

    def has_remove_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("llmapi.delete_adapter")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # by the action, which tells what cannot be removed

    # ---- the list -------------------------------------------------------------------------------

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        others = [adapter for adapter in adapters.adapters_listed() if adapter.row is None]
        context = {"other_adapters": others, **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description="state")
    def state(self, row: Adapter) -> SafeString:
        listed = adapters.listed(row)
        return format_html("{}{}", listed.state, f": {listed.failure}" if listed.failure else "")

    @admin.action(description="Remove the selected adapters", permissions=["remove"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Adapter]) -> None:
        for name in [*queryset.values_list("name", flat=True)]:
            try:
                adapters.adapter_remove(name=name, by=request.user)  # type: ignore[arg-type]
            except ApiError as error:
                self.message_user(request, error.message, messages.ERROR)
            else:
                self.message_user(request, f"'{name}' answers no new request.", messages.SUCCESS)

    # ---- one more -------------------------------------------------------------------------------

    def get_fields(self, request: HttpRequest, obj: Adapter | None = None) -> list[Any]:
        return ["name", "path"] + (["state", "added_by", "added_at"] if obj else [])

    def get_readonly_fields(self, request: HttpRequest, obj: Adapter | None = None) -> list[Any]:
        return self.get_fields(request, obj) if obj else []

    def get_form(
        self, request: HttpRequest, obj: Adapter | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is None:
            return type("AdapterForm", (AdapterForm,), {"user": request.user})
        return super().get_form(request, obj, change, **kwargs)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """In no transaction, as Django's own is: on SQLite, nobody else could write while the
        engine loads."""
        try:
            return self._changeform_view(request, object_id, form_url, extra_context)  # type: ignore[attr-defined]
        except adapters.AddingOff as error:
            self.message_user(request, error.message, messages.ERROR)
            return self.response_post_save_add(request, Adapter())

    def save_model(self, request: HttpRequest, obj: Adapter, form: Any, change: bool) -> None:
        """The form has."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """The service has."""
