"""A user's own conversation or request. Those of others do not exist here: 404."""

from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from conversations.models import Completion, Conversation
from conversations.own.ownership import own_completions, own_conversations


def find_conversation(request: HttpRequest, public_id: str) -> Conversation:
    own = own_conversations(request.user).select_related("api_key")
    return get_object_or_404(own, public_id=public_id)


def find_completion(request: HttpRequest, public_id: str) -> Completion:
    """One whose text was not deleted."""
    own = own_completions(request.user).select_related("api_key", "conversation", "content")
    return get_object_or_404(own, public_id=public_id)
