"""One's own history as files: JSON, a line for each conversation or request."""

from django.http import HttpRequest, StreamingHttpResponse

from accounts.pages.access import page
from conversations.exporting import completions_jsonl, conversations_jsonl
from conversations.models import Completion, Conversation
from conversations.own.ownership import own_completions, own_conversations
from conversations.pages.finding import find_completion, find_conversation
from conversations.streaming import streamed

TYPE = "application/jsonl"


@page
def conversations(request: HttpRequest) -> StreamingHttpResponse:
    lines = conversations_jsonl(own_conversations(request.user), for_owner=True)
    return streamed(lines, content_type=TYPE, filename="conversations.jsonl")


@page
def conversation(request: HttpRequest, public_id: str) -> StreamingHttpResponse:
    found = Conversation.objects.filter(pk=find_conversation(request, public_id).pk)
    lines = conversations_jsonl(found, for_owner=True)
    return streamed(lines, content_type=TYPE, filename=f"{public_id}.jsonl")


@page
def requests(request: HttpRequest) -> StreamingHttpResponse:
    lines = completions_jsonl(own_completions(request.user))
    return streamed(lines, content_type=TYPE, filename="requests.jsonl")


@page
def request(request: HttpRequest, public_id: str) -> StreamingHttpResponse:
    found = Completion.objects.filter(pk=find_completion(request, public_id).pk)
    return streamed(completions_jsonl(found), content_type=TYPE, filename=f"{public_id}.jsonl")
