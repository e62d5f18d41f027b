"""Users and keys for staff. Neither can be deleted: users are deactivated, keys are revoked."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts import services
from accounts.links_admin import password_links  # registers the invitations, too
from accounts.models import ApiKey, User


class NeverDeleted:
    """Other rows point to these for ever."""

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ApiKeyInline(NeverDeleted, admin.TabularInline):
    """A user's keys, to look at; they are made on a page of their own."""

    model = ApiKey
    fk_name = "user"
    fields = readonly_fields = (
        "name",
        "masked",
        "created_at",
        "last_used_at",
        "expires_at",
        "status",
    )
    ordering = ["-pk"]
    extra = 0
    show_change_link = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        return super().get_queryset(request).select_related("user")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="key")
    def masked(self, key: ApiKey) -> str:
        return key.masked

    @admin.display(description="status")
    def status(self, key: ApiKey) -> str:
        return key.status


@admin.register(User)
class UserAdmin(NeverDeleted, DjangoUserAdmin):
    actions = [password_links]
    inlines = [ApiKeyInline]
    list_display = ["username", "email", "is_active", "is_staff", "date_joined", "last_login"]
    ordering = ["username"]

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> list[type]:
        return self.inlines if obj is not None else []


class ApiKeyForm(forms.ModelForm):
    class Meta:
        model = ApiKey
        fields = ["user", "name", "expires_at"]

    def clean_user(self) -> User:
        user: User = self.cleaned_data["user"]
        if user.username == services.ANONYMOUS_USERNAME:
            raise ValidationError("This user stands for requests without a key, so it has none.")
        if not user.is_active:
            raise ValidationError("This user is not active: its keys are refused.")
        return user

    def clean_expires_at(self) -> Any:
        expires_at = self.cleaned_data["expires_at"]
        if (
            "expires_at" in self.changed_data
            and expires_at is not None
            and expires_at <= timezone.now()
        ):
            raise ValidationError("This time is past.")
        return expires_at


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


@admin.register(ApiKey)
class ApiKeyAdmin(NeverDeleted, admin.ModelAdmin):
    """A new key is shown in the answer to the form that made it, and nowhere else or again."""

    form = ApiKeyForm
    list_display = ["name_or_key", "status", "masked", "user", "last_used_at", "expires_at"]
    list_display += ["created_at"]
    list_filter = [StatusFilter, "created_at"]
    list_select_related = ["user"]
    search_fields = ["name", "public_id", "user__username"]
    autocomplete_fields = ["user"]
    actions = ["revoke"]
    ordering = ["-pk"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[Any]:
        if obj is None:
            return ["user", "name", "expires_at"]
        times = ["created_at", "last_used_at", "revoked_at"]
        return ["masked", "user", "name", "expires_at", "status", *times]

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        if obj is None:
            return []
        shown = [name for name in self.get_fields(request, obj) if name != "name"]
        # A revoked key stays as it was.
        if obj.revoked_at is None:
            shown.remove("expires_at")
        return shown

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
            return
        # For response_add; it is gone with the request.
        request.new_key_text = services.key_issue(obj)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        """No redirect: between two requests the key would have to be kept somewhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The new key",
            "opts": self.opts,
            "key": obj,
            "key_text": request.new_key_text,  # type: ignore[attr-defined]
        }
        response = TemplateResponse(request, "admin/accounts/apikey/created.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["show_save_and_add_another"] = context["show_save_and_continue"] = False
        return super().render_change_form(request, context, *args, **kwargs)

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
