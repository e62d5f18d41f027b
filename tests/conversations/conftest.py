import itertools

import pytest

from accounts.models import User
from conversations.models import Completion
from conversations.services import (
    ChoiceEnd,
    CompletionEnd,
    NewCompletion,
    NewMessage,
    completion_finish,
    completion_start,
)

numbers = itertools.count(1)


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob")


class History:
    """Writes history as the server does."""

    def start(self, user, messages=None, **fields) -> int:  # type: ignore[no-untyped-def]
        """messages: (role, content) pairs; none for a completion or an embedding."""
        number = next(numbers)
        values = {
            "public_id": f"chatcmpl-{number}",
            "kind": "chat" if messages else "completion",
            "user_id": user.pk,
            "api_key_id": None,
            "process_id": None,
            "model": "tiny",
            "parameters": {"temperature": 0.2},
            "request_id": f"req_{number}",
            "streamed": True,
            "prompt_tokens": 7,
            "messages": tuple(NewMessage(*message) for message in messages) if messages else None,
        }
        return completion_start(NewCompletion(**{**values, **fields})).pk

    def finish(self, pk: int, *texts: str, status="completed", **fields) -> None:  # type: ignore[no-untyped-def]
        reason = "stop" if status == "completed" else None
        values = {
            "status": Completion.Status(status),
            "choices": tuple(ChoiceEnd(i, text, reason) for i, text in enumerate(texts)),
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "first_token_ms": 12,
            "duration_ms": 345,
        }
        completion_finish(pk, CompletionEnd(**{**values, **fields}))

    def say(self, user, messages, *texts: str, **fields) -> Completion:  # type: ignore[no-untyped-def]
        """A whole request: started and finished."""
        pk = self.start(user, messages, **fields)
        self.finish(pk, *texts)
        return Completion.objects.get(pk=pk)


@pytest.fixture
def history() -> History:
    return History()
