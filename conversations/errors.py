"""What the history refuses. All of it leaves the API in OpenAI's envelope."""

from accounts.errors import ApiError


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
