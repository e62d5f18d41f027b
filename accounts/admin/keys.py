"""Keys for staff. None is deleted: they are revoked."""

import re
from typing import Any, cast

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts import services
from accounts.admin.forms import LIMITS, LIMITS_HELP, ApiKeyForm, RotateForm
from accounts.lookups import FilteredAlone
from accounts.models import ApiKey, User
from accounts.offered import offered_models, unknown_among


class NeverDeleted:
    """Other rows point to these for ever."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class SavesChanges(admin.ModelAdmin):
    """Writes what a form has changed, and nothing else: a key that is revoked, or a password that
    is set, while the form is on its way stays so."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        columns = {field.name for field in obj._meta.concrete_fields}
        obj.save(update_fields=columns.intersection(form.changed_data))


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("usable", "usable"), ("expired", "expired"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "revoked":
                return queryset.filter(revoked_at__isnull=False)
            case "expired":
                return queryset.filter(expired, revoked_at=None)
            case "usable":
                return queryset.filter(revoked_at=None, user__is_active=True).exclude(expired)
        return queryset


def not_served(key: ApiKey) -> str:
    """A sentence about models of a key that this server does not serve; "": there are none."""
    names = unknown_among(key.allowed_models, offered_models())
    if not names:
        return ""
    return f"Not served at present, so the key cannot use it yet: {', '.join(names)}."


SHOWN = ["status", "created_at", "created_by", "last_used_at", "revoked_at", "replaced_by"]
"""What nobody changes."""


@admin.register(ApiKey)
class ApiKeyAdmin(NeverDeleted, FilteredAlone, SavesChanges):
    """A new key is shown in the answer to the form that made it, and nowhere else or again."""

    form = ApiKeyForm
    list_display = ["name_or_key", "status", "masked", "user", "last_used_at", "expires_at"]
    list_display += ["created_at"]
    list_filter = [StatusFilter, "created_at"]
    other_lookups = ("user__id__exact",)
    list_select_related = ["user"]
    search_fields = ["name", "public_id", "user__username"]
    autocomplete_fields = ["user"]
    actions = ["rotate", "revoke"]
    ordering = ["-pk"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return super().get_queryset(request).filter(for_playground=False)

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> list[Any]:
        facts = ["user", "name", "expires_at"]
        if obj is not None:
            facts = ["masked", *facts, *SHOWN]
        return [
            (None, {"fields": facts}),
            ("What it may be used for", {"fields": ["scopes", "allowed_models"]}),
            ("Limits of this key alone", {"fields": LIMITS, "description": LIMITS_HELP}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        if obj is None:
            return []
        shown = ["masked", "user", *SHOWN]
        if obj.revoked_at is not None:  # it stays as it was
            shown += ["expires_at", "scopes", "allowed_models", *LIMITS]
        return shown

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What the address says that the form begins with. Of a user who can be none, Django's
        field would ask the database."""
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        if not re.fullmatch("[0-9]{1,18}", initial.get("user", "")):
            initial.pop("user", None)
        return initial

    @admin.display(description="name", ordering="name")
    def name_or_key(self, key: ApiKey) -> str:
        return key.name or "(no name)"

    @admin.display(description="key")
    def masked(self, key: ApiKey) -> str:
        return key.masked

    @admin.display(description="status")
    def status(self, key: ApiKey) -> str:
        return key.status

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            if "allowed_models" in form.changed_data and (warning := not_served(obj)):
                self.message_user(request, warning, messages.WARNING)
            return
        obj.created_by = cast(User, request.user)
        # For response_add; it is gone with the request.
        request.new_key_text = services.key_issue(obj)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self.show_once(request, obj, request.new_key_text)  # type: ignore[attr-defined]

    def show_once(self, request: HttpRequest, key: ApiKey, text: str) -> HttpResponse:
        """No redirect: between two requests the key would have to be kept somewhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The new key",
            "opts": self.opts,
            "key": key,
            "key_text": text,
            "not_served": not_served(key),
        }
        response = TemplateResponse(request, "admin/accounts/apikey/created.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["show_save_and_add_another"] = context["show_save_and_continue"] = False
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.action(description="Rotate the selected key", permissions=["add"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """Asks for how long the old key still works; then shows the new one."""
        if queryset.count() != 1:
            self.message_user(request, "Select one key to rotate.", messages.WARNING)
            return None
        key = queryset.select_related("user").get()
        form = RotateForm(request.POST if "grace" in request.POST else None)
        if form.is_valid():
            try:
                new, text = services.key_rotate(key, form.grace_time, cast(User, request.user))
            except ValidationError as error:
                self.message_user(request, " ".join(error.messages), messages.ERROR)
                return None
            self.log_addition(request, new, f"In place of {key}.")
            self.log_change(request, key, "Rotated.")
            return self.show_once(request, new, text)
        context = {
            **self.admin_site.each_context(request),
            "title": "Rotate a key",
            "opts": self.opts,
            "key": key,
            "form": form,
        }
        return TemplateResponse(request, "admin/accounts/apikey/rotate.html", context)

    @admin.action(description="Revoke the selected keys, for ever", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        revoked = [key for key in queryset if services.key_revoke(key)]
        for key in revoked:
            self.log_change(request, key, "Revoked.")
        self.message_user(
            request,
            f"{len(revoked)} revoked; they are refused from their next request on.",
            messages.SUCCESS if revoked else messages.WARNING,
        )
