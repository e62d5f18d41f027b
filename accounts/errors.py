"""Errors that leave the API in OpenAI's envelope, and those of keys.

One tree: every app raises subclasses of `ApiError`; `llmapi.errors` alone builds the envelope.
"""

from rest_framework.exceptions import APIException

RETRIED = (408, 409, 429)
"""Statuses below 500 after which OpenAI's SDKs send a request again by themselves."""


class ApiError(APIException):
    """An error with everything that OpenAI's envelope and the HTTP answer need.

    message: a sentence that says what to do. param: the request's field, or None.
    """

    status_code = 400
    error_type: str = "invalid_request_error"
    code: str | None = None
    retry_after_s: int | None = None
    """When the same request may be answered, 1 to 120 seconds from now; None: a retry does not mend
    it, and clients that would try by themselves are told so."""

    headers: dict[str, str]
    quotes: bool = False
    """Whether the message may quote what a client sent, although the fault is the server's."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status_code: int | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.status_code = status_code or self.status_code
        self.retry_after_s = retry_after_s or self.retry_after_s
        self.headers = {**self._about_retries(), **(headers or {})}

    def _about_retries(self) -> dict[str, str]:
        if self.retry_after_s is not None:
            return {"Retry-After": str(self.retry_after_s)}
        is_retried = self.status_code in RETRIED or self.status_code >= 500
        return {"x-should-retry": "false"} if is_retried else {}

    @property
    def is_ours(self) -> bool:
        """Whether the message speaks of the server alone, and may stand in its log."""
        return self.status_code >= 500 and not self.quotes


class InvalidApiKey(ApiError):
    """Missing, malformed, unknown, expired or revoked: all 401, and only the sentence differs."""

    status_code = 401
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class PermissionRefused(ApiError):
    """403: the key is good, and not for this."""

    status_code = 403
    code = "permission_denied"


class LimitReached(ApiError):
    """429; its headers say how much is left."""

    status_code = 429


class RateLimitExceeded(LimitReached):
    """Not within the limits. kind: what is limited, `requests` or `tokens`. retry_after_s: when the
    next one may pass; None: one like this never will."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, kind: str, retry_after_s: int | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.error_type = kind


class InsufficientQuota(LimitReached):
    """The token budget of the day or the month does not allow this request."""

    error_type = "insufficient_quota"
    code = "insufficient_quota"
