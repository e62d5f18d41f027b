"""What is kept of a request, and what it continues: the client's wishes, and the operator's word.

`store: false` hides a request from the lists of the API; whether its text is written all the same,
for staff to review, is the operator's policy (`LLMAPI_UNSTORED_TEXT`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.conf import settings

from accounts.errors import PermissionRefused
from conversations.own import stored
from conversations.tree.paths import Leaf, history_of
from llmapi.backends.base import ChatMessage, ChatRequest

PARAMETERS_WITH_TEXT = ("stop", "user")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a client says of how its request is kept. None: left out."""

    metadata: dict[str, str] = field(default_factory=dict)
    store: bool | None = None
    conversation: str | None = None
    """The public id of the conversation that the request continues."""

    @property
    def is_stored(self) -> bool:
        if self.store is not None:
            return self.store
        return settings.LLMAPI.store_by_default or self.conversation is not None

    @property
    def keeps_text(self) -> bool:
        return self.is_stored or settings.LLMAPI.unstored_text == "keep"

    def kept_metadata(self) -> dict[str, str]:
        return self.metadata if self.keeps_text else {}

    def kept_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those that may be written: with the text go the client's own words among them."""
        without = () if self.keeps_text else PARAMETERS_WITH_TEXT
        return {name: value for name, value in parameters.items() if name not in without}


@dataclass(frozen=True, slots=True)
class Past:
    """The history that a request continues by id."""

    leaf: Leaf
    messages: tuple[ChatMessage, ...]

    def before(self, request: ChatRequest) -> ChatRequest:
        """The request with its whole history, as the model is asked it."""
        return replace(request, messages=(*self.messages, *request.messages))


def past_of(conversation_id: str, user_id: int, *, is_anonymous: bool) -> Past:
    """What was said in a conversation of this user. Reads the database.

    Raises NotFound, ConversationChanged; PermissionRefused for requests without a key, which have
    no conversations: strangers share their user.
    """
    if is_anonymous:
        raise PermissionRefused(
            "Requests without an API key cannot continue a conversation by id. Send an API key.",
            param="conversation",
        )
    conversation = stored.conversation(user_id, conversation_id, param="conversation")
    leaf, messages = history_of(conversation.pk, user_id)
    said = tuple(ChatMessage(m.role, m.content or "", m.name) for m in messages)
    return Past(leaf, said)
