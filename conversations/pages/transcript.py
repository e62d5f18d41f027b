"""A conversation of one's own: read, renamed, a message by itself."""

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from accounts.pages.access import page
from conversations.own.versions import NoSuchMessage, way
from conversations.pages.deleting import may_delete
from conversations.pages.finding import find_conversation
from conversations.selectors import conversation_summaries
from conversations.tree.said import readable
from conversations.tree.titles import LONGEST_TITLE, conversation_rename


class TitleForm(forms.Form):
    title = forms.CharField(
        label=gettext_lazy("Title"),
        max_length=LONGEST_TITLE,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


@page
def transcript(request: HttpRequest, public_id: str) -> HttpResponse:
    """?at=MESSAGE shows the version that the message is in, ?before=MESSAGE what came before it."""
    conversation = find_conversation(request, public_id)
    try:
        shown = way(conversation, request.GET.get("at", ""), request.GET.get("before", ""))
    except NoSuchMessage:
        raise Http404 from None
    context = {
        "conversation": conversation,
        "way": shown,
        "summary": conversation_summaries([conversation.pk])[conversation.pk],
        "form": TitleForm(initial={"title": conversation.title}),
        "may_delete": may_delete(),
    }
    return render(request, "conversations/transcript.html", context)


@page
@require_POST
def rename(request: HttpRequest, public_id: str) -> HttpResponse:
    conversation = find_conversation(request, public_id)
    form = TitleForm(request.POST)
    if form.is_valid():
        conversation_rename(conversation, form.cleaned_data["title"])
        messages.success(request, _("The conversation is renamed."))
    else:
        for error in form.errors["title"]:
            messages.error(request, str(error))
    return redirect("conversation", public_id=public_id)


@page
def text(request: HttpRequest, public_id: str, message_id: str) -> HttpResponse:
    """The whole of one message, as it is and nothing else."""
    conversation = find_conversation(request, public_id)
    message = get_object_or_404(conversation.messages, public_id=message_id)
    return HttpResponse(readable(message.content), content_type="text/plain; charset=utf-8")
