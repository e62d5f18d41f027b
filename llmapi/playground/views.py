"""The playground: a page that chats with the model through the API, as programs do.

Its script asks `POST /v1/chat/completions` with a key that `new_key` gives it: for chats alone, for
an hour, held in the page's memory and nowhere else.
"""

from typing import Any

from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from accounts.errors import ApiError
from accounts.models import User
from accounts.pages.access import page
from accounts.pages.snippets import api_address
from accounts.services import PLAYGROUND_KEY_LIVES, playground_key_create
from conversations.errors import NotFound
from conversations.models import Completion, Conversation, Message
from conversations.own import stored
from conversations.tree.paths import messages_in_order, path_of
from conversations.tree.said import readable
from llmapi.errors import json_error
from llmapi.playground.fields import FIELDS
from llmapi.playground.words import words
from llmapi.services import models


class SignedOut(ApiError):
    """401: the session of the page has ended."""

    status_code = 401
    code = "signed_out"


@page
@require_GET
def playground(request: HttpRequest) -> HttpResponse:
    """`?conversation=conv_...` goes on with one of the user's own; another's is not found."""
    conversation_id = request.GET.get("conversation")
    config = {
        "key_url": reverse("playground_key"),
        "chat_url": "/v1/chat/completions",
        "base_url": api_address(request),
        "models": served_models(),
        "conversation": conversation_of(request, conversation_id) if conversation_id else None,
        "words": words(),
    }
    return render(request, "llmapi/playground.html", {"config": config, "fields": FIELDS})


@never_cache
@require_POST
def new_key(request: HttpRequest) -> HttpResponse:
    """`{"key", "expires_in"}` (seconds), for the page's script. It is in no other answer."""
    user = request.user
    if not isinstance(user, User):
        return json_error(SignedOut("You are signed out."))
    try:
        text = playground_key_create(user)
    except ApiError as error:
        return json_error(error)
    except ValidationError as error:
        refusal = ApiError(" ".join(error.messages), code="no_key")
        return json_error(refusal)
    lives_s = int(PLAYGROUND_KEY_LIVES.total_seconds())
    return JsonResponse({"key": text, "expires_in": lives_s})


def served_models() -> list[dict[str, Any]]:
    """All that /v1/models shows, with what each answers with where a request leaves it out."""
    return [
        {
            "id": card.id,
            "parent": card.parent,
            "alias_of": card.alias_of,
            "context_length": card.context_length,
            "defaults": dict(models.generation_defaults(card)),
        }
        for card in models.cards()
    ]


def conversation_of(request: HttpRequest, conversation_id: str) -> dict[str, Any]:
    """The conversation's path, as the page goes on with it. Raises Http404."""
    user = request.user
    assert user.pk is not None, "`page` lets nobody else in"
    try:
        conversation = stored.conversation(user.pk, conversation_id)
    except NotFound as error:
        raise Http404 from error
    said = messages_in_order(path_of(conversation.pk))
    made_by = Completion.objects.in_bulk([message.completion_id for message in said])
    return {
        "id": conversation.public_id,
        "model": last_model(conversation),
        "messages": [
            message_of(message, made_by.get(message.completion_id))
            for message in said
            if message.content is not None
        ],
    }


def message_of(message: Message, made_by: Completion | None) -> dict[str, Any]:
    """`content` is what is sent again, so that the history is recognised; `text` what is shown.
    Of an answer also its model, and what the page told of it when it came."""
    shown = {
        "role": message.role,
        "name": message.name,
        "content": message.content,
        "text": readable(message.content),
    }
    if made_by is None:
        return shown
    tokens = {
        "prompt_tokens": made_by.prompt_tokens,
        "completion_tokens": made_by.completion_tokens,
    }
    is_whole = made_by.status == Completion.Status.COMPLETED
    told = {
        "isStopped": made_by.status == Completion.Status.CANCELLED,
        "isInterrupted": not is_whole and made_by.status != Completion.Status.CANCELLED,
        "finish": message.finish_reason,
        "usage": tokens if is_whole else None,
    }
    return {**shown, "model": made_by.model, "told": told}


def last_model(conversation: Conversation) -> str | None:
    asked = Completion.objects.filter(conversation=conversation).order_by("-created_at", "-pk")
    return asked.values_list("model", flat=True).first()
