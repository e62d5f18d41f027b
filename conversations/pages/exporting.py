"""One's own history as files: JSON, a line for each conversation or request."""

from collections.abc import Iterable

from django.http import HttpRequest, StreamingHttpResponse

from accounts.pages.access import page
from conversations.exports.jsonl import completions_jsonl, conversations_jsonl
from conversations.exports.streaming import export_begin
from conversations.models import Completion, Conversation
from conversations.own.ownership import own_completions, own_conversations
from conversations.pages.finding import find_completion, find_conversation


@page
def conversations(request: HttpRequest) -> StreamingHttpResponse:
    lines = conversations_jsonl(own_conversations(request.user), for_owner=True)
    return jsonl(request, lines, "conversations")


@page
def conversation(request: HttpRequest, public_id: str) -> StreamingHttpResponse:
    found = Conversation.objects.filter(pk=find_conversation(request, public_id).pk)
    lines = conversations_jsonl(found, for_owner=True)
    return jsonl(request, lines, public_id)


@page
def requests(request: HttpRequest) -> StreamingHttpResponse:
    lines = completions_jsonl(own_completions(request.user))
    return jsonl(request, lines, "requests")


@page
def request(request: HttpRequest, public_id: str) -> StreamingHttpResponse:
    found = Completion.objects.filter(pk=find_completion(request, public_id).pk)
    return jsonl(request, completions_jsonl(found), public_id)


def jsonl(request: HttpRequest, lines: Iterable[str], name: str) -> StreamingHttpResponse:
    return export_begin(
        request.user.pk, lines, content_type="application/jsonl", filename=f"{name}.jsonl"
    )
