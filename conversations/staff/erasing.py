"""Erasing by staff: asked once more, noted in the audit log, done by the services."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from accounts import audit
from accounts.models import AuditEvent
from accounts.rights import may_govern
from conversations.errors import ConversationBusy
from conversations.retention.erasing import completion_erase, conversation_erase
from conversations.staff.reading import HistoryAdmin, may_erase
from conversations.storage.writing import write_transaction

NOT_GOVERNED = "Nothing was done: there are staff among these, whom superusers alone govern."


def confirmation(
    request: HttpRequest,
    model_admin: admin.ModelAdmin,
    rows: Sequence[Any],
    *,
    action: str,
    title: str,
    what: str,
) -> HttpResponse:
    """A page that names the rows and what goes; its form sends the same action with `confirmed`."""
    context = {
        **model_admin.admin_site.each_context(request),
        "title": title,
        "opts": model_admin.opts,
        "rows": rows,
        "action": action,
        "what": what,
        "checkbox": ACTION_CHECKBOX_NAME,
    }
    return TemplateResponse(request, "admin/conversations/erase.html", context)


def is_confirmed(request: HttpRequest) -> bool:
    return request.POST.get("confirmed") == "yes"


class ErasedAdmin(HistoryAdmin):
    """Rows whose text can be taken away, by those who may."""

    erase_what = ""
    """In words: what goes with a row."""

    def has_erase_permission(self, request: HttpRequest) -> bool:
        return may_erase(request)

    def erase(self, pk: int) -> None:
        """Raises ConversationBusy, or the model's DoesNotExist."""
        raise NotImplementedError

    @admin.action(
        description="Erase the text of the selected %(verbose_name_plural)s", permissions=["erase"]
    )
    def erase_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        if request.POST.get("select_across") == "1":
            self.message_user(
                request,
                "Tick those that are to be erased. All of a user's text is erased by an action of"
                " the users' list; what is old, by pruning.",
                messages.WARNING,
            )
            return None
        rows = list(queryset.order_by("pk"))
        if not all(may_govern(request.user, row.user) for row in rows):  # type: ignore[arg-type]
            self.message_user(request, NOT_GOVERNED, messages.ERROR)
            return None
        if not is_confirmed(request):
            return confirmation(
                request,
                self,
                [(row.pk, f"{row.public_id} of {row.user.get_username()}") for row in rows],
                action="erase_selected",
                title="Erase for ever?",
                what=self.erase_what,
            )
        erased = 0
        for row in rows:
            try:
                with write_transaction():  # The log says what was done, and all that was done.
                    audit.record_for(
                        request,
                        AuditEvent.Action.ERASE,
                        row.public_id,
                        user=row.user.get_username(),
                    )
                    self.erase(row.pk)
            except ConversationBusy as error:
                self.message_user(request, f"{row.public_id}: {error}", messages.ERROR)
            except self.model.DoesNotExist:  # Somebody else was faster.
                continue
            else:
                erased += 1
        if erased:
            self.message_user(request, f"{erased} erased.", messages.SUCCESS)
        return None


class ErasedConversations(ErasedAdmin):
    erase_what = (
        "All messages of each conversation, its title, its review and what was said in its"
        " requests. The requests stay as rows without text, and count as usage."
    )

    def erase(self, pk: int) -> None:
        conversation_erase(pk)


class ErasedCompletions(ErasedAdmin):
    erase_what = (
        "Prompt, parameters and output of each request; of a chat, its answers and those of its"
        " messages that no later turn stands on. The row stays and counts as usage."
    )

    def erase(self, pk: int) -> None:
        completion_erase(pk)
