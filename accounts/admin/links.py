"""Links for staff to hand out: invitations, and a user's first or next password. Each is shown in
the answer to the form that made it, and kept nowhere."""

from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from accounts import links
from accounts.lookups import FilteredAlone
from accounts.models import Invitation, User


def links_page(
    request: HttpRequest, admin_site: Any, opts: Any, title: str, help_text: str, rows: list[Any]
) -> HttpResponse:
    """Links, each with whom it is for."""
    context = {
        **admin_site.each_context(request),
        "title": title,
        "opts": opts,
        "help_text": help_text,
        "rows": rows,
    }
    response = TemplateResponse(request, "admin/accounts/links.html", context)
    response["Cache-Control"] = "no-store"
    return response


@admin.action(
    description="Make links by which the selected users set a password", permissions=["change"]
)
def password_links(
    users: Any, request: HttpRequest, queryset: QuerySet[User]
) -> HttpResponse | None:
    """The action of the list of users. A link is as good as the account that it is for, so those
    for staff are for superusers to make."""
    rows = []
    for user in queryset.order_by("username"):
        try:
            path = links.password_path(user, made_by=cast(User, request.user))
        except ValidationError as error:
            messages.error(request, f"{user.username}: {' '.join(error.messages)}")
            continue
        users.log_change(request, user, "Link for a password made.")
        rows.append((user.username, links.link(path, request)))
    if not rows:
        return None
    days = settings.PASSWORD_RESET_TIMEOUT // (24 * 3600)
    help_text = (
        f"Each works once, within {days} days, until a newer one is made. Whoever has it can set "
        "the password."
    )
    return links_page(
        request, users.admin_site, users.opts, "Links for a password", help_text, rows
    )


class InvitationForm(forms.ModelForm):
    days = forms.IntegerField(
        label="Good for days",
        min_value=1,
        max_value=links.MOST_INVITATION_DAYS,
        initial=links.INVITATION_DAYS,
    )

    class Meta:
        model = Invitation
        fields = ["note"]


@admin.register(Invitation)
class InvitationAdmin(FilteredAlone, admin.ModelAdmin):
    """Made, handed out and withdrawn; never changed."""

    form = InvitationForm
    list_display = ["note_or_number", "status", "created_by", "created_at", "expires_at", "used_by"]
    list_select_related = ["created_by", "used_by"]
    search_fields = ["note", "used_by__username"]
    ordering = ["-pk"]
    actions = ["withdraw"]
    list_display_links = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return settings.LLMAPI.sign_up != "closed" and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # For the action alone; there is no form to change one.
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="invitation")
    def note_or_number(self, invitation: Invitation) -> str:
        return invitation.note or str(invitation)

    @admin.display(description="status")
    def status(self, invitation: Invitation) -> str:
        if invitation.used_at is not None:
            return "used"
        return "good" if invitation.expires_at > timezone.now() else "ended"

    def save_model(self, request: HttpRequest, obj: Invitation, form: Any, change: bool) -> None:
        made, path = links.invitation_create(
            created_by=cast(User, request.user),
            note=obj.note,
            days=form.cleaned_data["days"],
        )
        obj.pk, obj.expires_at, obj.created_by = made.pk, made.expires_at, made.created_by
        request.new_link = path  # type: ignore[attr-defined]  # for response_add

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["show_save_and_add_another"] = context["show_save_and_continue"] = False
        return super().render_change_form(request, context, *args, **kwargs)

    def response_add(
        self, request: HttpRequest, obj: Invitation, post_url_continue: str | None = None
    ) -> HttpResponse:
        return links_page(
            request,
            self.admin_site,
            self.opts,
            "The invitation",
            f"Good for one account, until {obj.expires_at:%Y-%m-%d %H:%M} UTC.",
            [(obj.note, links.link(request.new_link, request))],  # type: ignore[attr-defined]
        )

    @admin.action(description="Withdraw the selected invitations", permissions=["change"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> None:
        withdrawn = [row for row in queryset if links.invitation_withdraw(row)]
        for row in withdrawn:
            self.log_change(request, row, "Withdrawn.")
        self.message_user(
            request,
            f"{len(withdrawn)} withdrawn.",
            messages.SUCCESS if withdrawn else messages.WARNING,
        )
