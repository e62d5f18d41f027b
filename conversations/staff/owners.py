"""Users and keys with what they used, and the ways from them to what they asked. Registered in
place of the plain pages of `accounts`, which knows nothing of usage."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.views.main import ChangeList
from django.db.models import Max, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString, mark_safe

from accounts import audit
from accounts.admin import ApiKeyAdmin, UserAdmin
from accounts.models import ApiKey, AuditEvent, User
from accounts.rights import governed_by, may_govern
from conversations.retention.erasing import user_erase
from conversations.staff.columns import day_shown, time_shown
from conversations.staff.erasing import NOT_GOVERNED, confirmation, is_confirmed
from conversations.staff.reading import may_erase
from conversations.usage.query import Group, UsageQuery
from conversations.usage.totals import Usage, usage

USAGE_DAYS = 30
RIGHTS = ("is_staff", "is_superuser", "groups", "user_permissions")


def used(by: Group, pks: Collection[int]) -> dict[int, Usage]:
    """What each user or key (`by`: "user", "api_key") of a page used in the last USAGE_DAYS."""
    now = timezone.now()
    query = UsageQuery(
        start=now - timedelta(days=USAGE_DAYS),
        end=now,
        group_by=(by,),
        users=pks if by == "user" else None,
        keys=pks if by == "api_key" else None,
    )
    return {row.group[by]: row.usage for row in usage(query)}


def links(request: HttpRequest, *pages: tuple[str, str, dict[str, Any]]) -> SafeString:
    """(permission, name of a list, its filter): those that they may see."""
    shown = []
    for model, name, query in pages:
        app, _, table = model.partition(".")
        if request.user.has_perm(f"{app}.view_{table}"):
            url = reverse(f"admin:{app}_{table}_changelist")
            shown.append((f"{url}?{urlencode(query)}", name))
    return format_html_join(mark_safe("<br>"), '<a href="{}">{}</a>', shown)


class OwnerList(ChangeList):
    """Adds usage: a fixed number of queries for a page."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        pks = [row.pk for row in self.result_list]
        by: Group = "user" if self.model is User else "api_key"
        sums = used(by, pks)
        last: dict[int, datetime | None] = {}
        if self.model is User:
            keys = ApiKey.objects.filter(user__in=pks).order_by().values("user")
            last = dict(keys.annotate(last=Max("last_used_at")).values_list("user", "last"))
        for row in self.result_list:
            row.used = sums.get(row.pk, Usage())
            row.last_used = last.get(row.pk)
            row.asked_by = request


class GovernedAdmin(admin.ModelAdmin):
    """Superusers alone change staff, their keys and anybody's rights, and erase what staff said."""

    owner_path = ""
    """From a row to its user, as a prefix of lookups."""

    def owner(self, obj: Any) -> User:
        raise NotImplementedError

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return OwnerList

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        allowed = super().has_change_permission(request, obj)
        return allowed and (obj is None or may_govern(request.user, self.owner(obj)))  # type: ignore[arg-type]

    def response_action(  # type: ignore[override]
        self, request: HttpRequest, queryset: QuerySet[Any]
    ) -> Any:
        ticked = queryset.filter(pk__in=request.POST.getlist(ACTION_CHECKBOX_NAME))
        if request.POST.get("select_across") == "1":
            ticked = queryset
        governed = User.objects.filter(governed_by(request.user)).values("pk")  # type: ignore[arg-type]
        if ticked.exclude(**{f"{self.owner_path}pk__in": governed}).exists():
            self.message_user(request, NOT_GOVERNED, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        return super().response_action(request, queryset)

    @admin.display(description=f"in {USAGE_DAYS} days")
    def used_lately(self, row: Any) -> SafeString | str:
        if not row.used.requests:
            return "nothing"
        return format_html(
            '<span title="{} in + {} out">{} tokens</span><br><span>{} request{}</span>',
            f"{row.used.prompt_tokens:,}",
            f"{row.used.completion_tokens:,}",
            f"{row.used.total_tokens:,}",
            f"{row.used.requests:,}",
            "" if row.used.requests == 1 else "s",
        )

    class Media:
        css = {"all": ["conversations/history.css"]}


admin.site.unregister([User, ApiKey])


@admin.register(User)
class UserUsageAdmin(GovernedAdmin, UserAdmin):
    list_display = [
        *("username", "email", "is_active", "is_staff", "last_used"),
        *("used_lately", "ways"),
    ]
    actions = [*UserAdmin.actions, "erase_texts"]
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def owner(self, obj: User) -> User:
        return obj

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        # When somebody joined and signed in is evidence.
        fields = (*super().get_readonly_fields(request, obj), "last_login", "date_joined")
        return fields if request.user.is_superuser else (*fields, *RIGHTS)

    @admin.display(description="key last used")
    def last_used(self, user: Any) -> str:
        return time_shown(user.last_used, seconds=False)

    @admin.display(description="see")
    def ways(self, user: Any) -> SafeString:
        name = {"user": user.get_username()}
        return links(
            user.asked_by,
            ("accounts.apikey", "keys", {"user__id__exact": user.pk}),
            ("conversations.completion", "requests", name),
            ("conversations.conversation", "conversations", name),
        )

    def has_erase_permission(self, request: HttpRequest) -> bool:
        return may_erase(request)

    @admin.action(description="Erase all that the selected users said", permissions=["erase"])
    def erase_texts(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponse | None:
        if request.POST.get("select_across") == "1":
            self.message_user(request, "Tick the users, please.", messages.WARNING)
            return None
        users = list(queryset.order_by("pk"))
        if not is_confirmed(request):
            return confirmation(
                request,
                self,
                [(user.pk, user.get_username()) for user in users],
                action="erase_texts",
                title="Erase all that they said?",
                what="All conversations, prompts, inputs and answers of these users, and the"
                " reviews of them; of requests that are running, what they will have said. Users,"
                " keys and usage stay.",
            )
        for user in users:
            name = user.get_username()
            # First, for it is done in many transactions, and nobody erases unseen.
            audit.record_for(request, AuditEvent.Action.ERASE, f"user {name}")
            conversations, completions = user_erase(user.pk)
            self.message_user(
                request,
                f"{name}: {conversations} conversations, the texts of {completions} requests.",
                messages.SUCCESS,
            )
        return None


@admin.register(ApiKey)
class ApiKeyUsageAdmin(GovernedAdmin, ApiKeyAdmin):
    list_display = [
        *("name_or_key", "status", "masked", "user"),
        *("last_used", "ends", "made", "used_lately", "ways"),
    ]
    owner_path = "user__"

    def owner(self, obj: ApiKey) -> User:
        return obj.user

    def formfield_for_foreignkey(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        if db_field.name == "user":
            kwargs["queryset"] = User.objects.filter(governed_by(request.user))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, key: ApiKey) -> str:
        return day_shown(key.last_used_at)

    @admin.display(description="ends", ordering="expires_at")
    def ends(self, key: ApiKey) -> str:
        return day_shown(key.expires_at)

    @admin.display(description="made", ordering="created_at")
    def made(self, key: ApiKey) -> str:
        return day_shown(key.created_at)

    @admin.display(description="see")
    def ways(self, key: Any) -> SafeString:
        name = {"key": f"sk-{key.public_id}"}
        return links(
            key.asked_by,
            ("conversations.completion", "requests", name),
            ("conversations.conversation", "conversations", name),
        )
