"""Deleting one's own, where the operator allows it (`LLMAPI_USERS_MAY_DELETE`)."""

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _

from accounts.pages.access import page
from conversations.errors import ConversationBusy
from conversations.models import Completion, Conversation
from conversations.pages.finding import find_completion, find_conversation
from conversations.retention.erasing import completion_erase, conversation_erase
from conversations.selectors import conversation_summaries


@page
def conversation(request: HttpRequest, public_id: str) -> HttpResponse:
    check_allowed()
    found = find_conversation(request, public_id)
    if request.method == "POST":
        try:
            conversation_erase(found.pk)
        except ConversationBusy:
            tell_running(request)
            return redirect("conversation", public_id=public_id)
        except Conversation.DoesNotExist:
            pass  # by the same form, sent twice
        messages.success(request, _("The conversation is deleted."))
        return redirect("history")
    context = {
        "conversation": found,
        "summary": conversation_summaries([found.pk])[found.pk],
    }
    return render(request, "conversations/conversation_delete.html", context)


@page
def request(request: HttpRequest, public_id: str) -> HttpResponse:
    check_allowed()
    found = find_completion(request, public_id)
    if request.method == "POST":
        try:
            completion_erase(found.pk)
        except ConversationBusy:
            tell_running(request)
            return redirect("request", public_id=public_id)
        except Completion.DoesNotExist:
            pass
        messages.success(request, _("The request is deleted."))
        # A conversation without messages goes with its last request.
        chat = found.conversation
        if chat is None:
            return redirect("requests")
        if Conversation.objects.filter(pk=chat.pk).exists():
            return redirect("conversation", public_id=chat.public_id)
        return redirect("history")
    return render(request, "conversations/request_delete.html", {"completion": found})


def may_delete() -> bool:
    return settings.LLMAPI.users_may_delete


def check_allowed() -> None:
    if not may_delete():
        raise PermissionDenied("LLMAPI_USERS_MAY_DELETE is off.")


def tell_running(request: HttpRequest) -> None:
    messages.error(
        request, _("It is still being answered. Stop that, or wait for its end, and try again.")
    )
