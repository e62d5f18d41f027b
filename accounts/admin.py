"""Users and keys for staff. Neither can be deleted: users are deactivated, keys are revoked."""

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts import services
from accounts.forms import LIMITS, LIMITS_HELP, ApiKeyForm, PasswordForm, RotateForm
from accounts.links_admin import password_links  # registers the invitations, too
from accounts.lookups import FilteredAlone
from accounts.models import ApiKey, User
from accounts.offered import offered_models, unknown_among
from accounts.rights import may_govern, user_locked


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
        return super().get_queryset(request).filter(for_playground=False).select_related("user")

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
class UserAdmin(NeverDeleted, FilteredAlone, DjangoUserAdmin):
    change_password_form = PasswordForm
    actions = [password_links]
    inlines = [ApiKeyInline]
    list_display = ["username", "email", "is_active", "is_staff", "date_joined", "last_login"]
    ordering = ["username"]
    fieldsets = (
        *(DjangoUserAdmin.fieldsets or ()),
        (
            "Limits of all keys together",
            {
                "fields": (*LIMITS,),
                "description": "Empty: the server's default (LLMAPI_DEFAULT_...). "
                "0: nothing at all. A day and a calendar month begin at midnight, UTC.",
            },
        ),
    )

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> list[type]:
        return self.inlines if obj is not None else []

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        # For save_related, after which the new ones are in the database too.
        request.rights_before = rights_of(obj.pk)  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)
        if not change:
            services.password_set(obj, cast(User, request.user))

    def user_change_password(
        self,
        request: HttpRequest,
        id: str,  # noqa: A002 - Django's name
        form_url: str = "",
    ) -> HttpResponse:
        found = self.get_object(request, unquote(id))
        if found is None or request.method != "POST":
            return super().user_change_password(request, id, form_url)
        by = cast(User, request.user)
        with transaction.atomic():
            user = user_locked(found)
            if not may_govern(by, user):  # it may have become staff just now
                raise PermissionDenied
            response = super().user_change_password(request, id, form_url)
            if user_locked(user).password != user.password:
                services.password_set(user, by)
        return response

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        user = form.instance
        if not rights_of(user.pk) - request.rights_before:  # type: ignore[attr-defined]
            return
        revoked, knows_password = services.others_locked_out(user)
        keys = ApiKeyAdmin(ApiKey, self.admin_site)
        for key in revoked:
            keys.log_change(request, key, f"Revoked: {user.get_username()} was given rights.")
        if revoked:
            self.message_user(
                request,
                f"{len(revoked)} of this user's keys were made by others, who could have acted by"
                " these rights; they are revoked.",
                messages.WARNING,
            )
        if knows_password is not None:
            self.log_change(request, user, "Password ended: rights were given.")
            self.message_user(
                request,
                f"This user's password was set by {knows_password}, who could have acted by these"
                " rights; it is void. Set another one, or make a link by which the user sets one.",
                messages.WARNING,
            )


def rights_of(user_pk: int | None) -> set[str]:
    """What a user may do beside using the API, as it is in the database."""
    user = User.objects.filter(pk=user_pk).first() if user_pk is not None else None
    if user is None:
        return set()
    rights = {name for name in ("is_staff", "is_superuser") if getattr(user, name)}
    rights |= {f"group {pk}" for pk in user.groups.values_list("pk", flat=True)}
    return rights | {f"right {pk}" for pk in user.user_permissions.values_list("pk", flat=True)}


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
class ApiKeyAdmin(NeverDeleted, FilteredAlone, admin.ModelAdmin):
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
