"""What is a user's own. Whoever reads the history of one user begins here: another's is not found,
as if it were not there. `owner`: the user, or its primary key."""

from typing import Any

from django.db.models import QuerySet

from accounts.models import ApiKey
from conversations.models import Completion, Conversation


def own_conversations(owner: Any) -> QuerySet[Conversation]:
    return Conversation.objects.filter(user=owner)


def own_completions(owner: Any) -> QuerySet[Completion]:
    """Requests whose text is there; of the others the usage tells."""
    return Completion.objects.filter(user=owner, erased_at=None)


def models_of(owner: Any) -> list[str]:
    """Names of the models of the user's last 1,000 requests: a filter's choices."""
    recent = Completion.objects.filter(user=owner).order_by("-created_at")
    return sorted(set(recent.values_list("model", flat=True)[:1000]))


def keys_of(owner: Any) -> list[ApiKey]:
    """All that the user ever had, without the playground's."""
    return list(ApiKey.objects.filter(user=owner, for_playground=False).order_by("name", "pk"))
