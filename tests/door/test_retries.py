"""Every error says whether to try again: SDKs do so by themselves after 408, 409, 429 and 5xx."""

from collections.abc import Iterator

import pytest
from django.db import InterfaceError, OperationalError
from rest_framework import exceptions as drf

# Whatever raises an error in the API is imported by one of these two.
import config.asgi
import config.urls  # noqa: F401
from accounts import errors as accounts
from accounts.errors import ApiError
from conversations import errors as history
from llmapi import adapters, errors
from llmapi.playground.views import SignedOut

MENDED = {
    accounts.RateLimitExceeded: [
        accounts.RateLimitExceeded("Wait.", kind="requests", retry_after_s=seconds)
        for seconds in (1, 120)
    ],
    errors.ServerUnavailable: [
        errors.ServerUnavailable("The server is busy.", code="overloaded"),
        errors.as_api_error(OperationalError("gone")),
        errors.as_api_error(InterfaceError("gone")),
    ],
    errors.Overloaded: [
        errors.Overloaded("The server is busy."),
        errors.Overloaded("The server is busy.", retry_after_s=120),
    ],
    errors.RequestTimeout: [errors.RequestTimeout("It came too slowly.")],
    errors.EngineLost: [errors.EngineLost("It is being started again.")],
    history.ConversationBusy: [history.ConversationBusy()],
    history.ConversationChanged: [history.ConversationChanged()],
    history.KeyInFlight: [history.KeyInFlight(running_s) for running_s in (-3, 0, 1.5, 1e6)],
}
"""What may be answered a moment later."""

IN_VAIN = {
    accounts.RateLimitExceeded: [accounts.RateLimitExceeded("Never.", kind="tokens")],
    accounts.InsufficientQuota: [accounts.InsufficientQuota("The budget is used up.")],
    errors.GenerationFailed: [errors.GenerationFailed("The engine failed.")],
    errors.TemplateFailed: [errors.TemplateFailed("The template failed.")],
    errors.InternalError: [
        errors.InternalError("A bug."),
        errors.as_api_error(ZeroDivisionError()),
        errors.as_api_error(drf.APIException()),
    ],
    errors.AsgiNeeded: [errors.AsgiNeeded("Start it with serve.")],
    errors.NameTaken: [errors.NameTaken("law")],
    history.AnswerNotKept: [history.AnswerNotKept()],
    history.KeyReused: [history.KeyReused()],
    adapters.AdapterInUse: [adapters.AdapterInUse("The settings need it.")],
}
"""What SDKs would send again, or what clients would that know the draft about idempotency keys, and
what would meet the same."""

NOT_RETRIED = {
    kind: [kind("A sentence.")]
    for kind in (
        ApiError,
        accounts.InvalidApiKey,
        accounts.PermissionRefused,
        errors.InvalidRequest,
        errors.UnknownParameter,
        errors.UnsupportedParameter,
        errors.InvalidJSON,
        errors.BodyTooLarge,
        errors.AddressTooLong,
        errors.HeadersTooLarge,
        errors.UnsupportedMediaType,
        errors.ContextLengthExceeded,
        errors.ModelNotFound,
        errors.AdapterRefused,
        errors.UnknownRoute,
        errors.MethodNotAllowed,
        errors.HostNotAllowed,
        adapters.AddingOff,
        adapters.UnknownAdapter,
        SignedOut,
    )
} | {history.NotFound: [history.NotFound("conversation", "conv_1", param="id")]}
"""What no SDK sends again."""

BASES = {accounts.LimitReached}
"""Raised by their subclasses only."""


def kinds(of: type[ApiError]) -> Iterator[type[ApiError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def cases(table: dict[type[ApiError], list[ApiError]]) -> list[object]:
    return [pytest.param(error, id=kind.__name__) for kind in table for error in table[kind]]


def is_retried(error: ApiError) -> bool:
    """As OpenAI's SDKs have it."""
    return error.status_code in (408, 409, 429) or error.status_code >= 500


def test_every_kind_of_error_is_in_a_table() -> None:
    assert {*kinds(ApiError)} == {*MENDED, *IN_VAIN, *NOT_RETRIED, *BASES}


@pytest.mark.parametrize("error", cases(MENDED))
def test_what_a_retry_mends_says_when(error: ApiError) -> None:
    assert is_retried(error)
    assert 1 <= int(error.headers["Retry-After"]) <= 120
    assert "x-should-retry" not in error.headers


@pytest.mark.parametrize("error", cases(IN_VAIN))
def test_what_no_retry_mends_says_so(error: ApiError) -> None:
    assert is_retried(error) or isinstance(error, history.KeyReused)
    assert error.headers["x-should-retry"] == "false"
    assert "Retry-After" not in error.headers


@pytest.mark.parametrize("error", cases(NOT_RETRIED))
def test_the_rest_is_not_retried_anyway(error: ApiError) -> None:
    assert not is_retried(error)
    assert not {"Retry-After", "x-should-retry"} & {*error.headers}
