"""What the history refuses. All of it leaves the API in OpenAI's envelope."""

from accounts.errors import ApiError

IDEMPOTENCY_KEY = "Idempotency-Key"
LONGEST_WAIT_S = 30


class NotFound(ApiError):
    """404: there is no such thing, or none that the asker may know of. Both are told alike."""

    status_code = 404
    code = "not_found"

    def __init__(self, kind: str, public_id: str, *, param: str) -> None:
        super().__init__(f"There is no {kind} '{public_id[:80]}' that you may see.", param=param)


class ConversationBusy(ApiError):
    """409: the request, or one of the conversation, is still being answered."""

    status_code = 409
    code = "conversation_busy"
    retry_after_s = 5

    def __init__(self) -> None:
        super().__init__(
            "It is still being answered. Wait for its end, or cancel it by closing its connection; "
            "then try again."
        )


class ConversationChanged(ApiError):
    """409: between reading the history and adding to it, an item of it was deleted, or an answer
    that was taken for interrupted came to its true end."""

    status_code = 409
    code = "conversation_changed"
    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__(
            "The conversation was changed while this request was being accepted. Send it again.",
            param="conversation",
        )


class KeyInFlight(ApiError):
    """409: the request with this idempotency key is being answered."""

    status_code = 409
    code = "idempotency_key_in_use"

    def __init__(self, running_s: float) -> None:
        # Who comes back after as long as it has taken so far, waits twice as long at most, and
        # meets a long answer's end within the few times that SDKs try.
        super().__init__(
            "A request with this Idempotency-Key is being answered. Send it again in a moment to "
            "get its answer.",
            param=IDEMPOTENCY_KEY,
            retry_after_s=min(max(round(running_s), 1), LONGEST_WAIT_S),
        )


class KeyReused(ApiError):
    """422: the idempotency key stands for another request."""

    status_code = 422
    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was used for a request with another body or route. Send a new "
            "key with each new request.",
            param=IDEMPOTENCY_KEY,
            headers={"x-should-retry": "false"},
        )


class AnswerNotKept(ApiError):
    """409: the request with this idempotency key was answered, and its answer is not there."""

    status_code = 409
    code = "idempotent_answer_not_kept"

    def __init__(self) -> None:
        super().__init__(
            "The request with this Idempotency-Key was answered, and its answer cannot be sent "
            "again: it was deleted, was too long, or was not to be stored. To have it answered "
            "anew, send a new key.",
            param=IDEMPOTENCY_KEY,
        )
