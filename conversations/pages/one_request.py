"""The page of one completion or embedding request. A chat's is its place in the conversation."""

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from accounts.pages.access import page
from conversations.models import Completion
from conversations.pages.deleting import may_delete
from conversations.pages.finding import find_completion
from conversations.tree.said import prompt_texts

MOST_TEXTS = 50
MOST_CHARACTERS = 20_000


@page
def one_request(request: HttpRequest, public_id: str) -> HttpResponse:
    completion = find_completion(request, public_id)
    if completion.conversation is not None:
        return HttpResponseRedirect(place_of(completion))
    content = getattr(completion, "content", None)
    prompts = prompt_texts(content.prompt) if content else []
    context = {
        "completion": completion,
        "content": content,
        "prompts": [shortened(text) for text in prompts[:MOST_TEXTS]],
        "more_prompts": max(len(prompts) - MOST_TEXTS, 0),
        "outputs": [
            (choice, shortened(choice.get("text") or ""))
            for choice in (content.output if content else [])[:MOST_TEXTS]
        ],
        "may_delete": may_delete(),
    }
    return render(request, "conversations/request.html", context)


def place_of(completion: Completion) -> str:
    """Where a chat's answer stands in its conversation, or what it should have answered."""
    assert completion.conversation is not None
    url = reverse("conversation", args=[completion.conversation.public_id])
    message = completion.outputs.order_by("choice_index").first() or completion.head
    return f"{url}?at={message.public_id}#{message.public_id}" if message else url


def shortened(text: str) -> tuple[str, int]:
    """What the page shows of a text, and how many characters it leaves out."""
    return text[:MOST_CHARACTERS], max(len(text) - MOST_CHARACTERS, 0)
