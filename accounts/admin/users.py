"""Users for staff. None is deleted: they are deactivated."""

from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from accounts import services
from accounts.admin.forms import LIMITS, PasswordForm
from accounts.admin.keys import NeverDeleted, SavesChanges
from accounts.admin.links import password_links
from accounts.admin.rights import lock_others_out, rights_of
from accounts.lookups import FilteredAlone
from accounts.models import ApiKey, User
from accounts.rights import may_govern, user_locked


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
class UserAdmin(NeverDeleted, FilteredAlone, SavesChanges, DjangoUserAdmin):
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
        if rights_of(user.pk) - request.rights_before:  # type: ignore[attr-defined]
            lock_others_out(request, self.admin_site, user)
