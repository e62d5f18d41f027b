"""The errors of the door, and the one function that makes OpenAI's envelope out of any
exception."""

import difflib
import logging
import sys
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import (
    DisallowedHost,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions as drf
from rest_framework.response import Response

from accounts.errors import ApiError, InvalidApiKey, PermissionRefused
from accounts.keys import without_keys
from accounts.pages import errors as pages
from llmapi import metrics

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/conversations",
    "/v1/usage",
    "/v1/admin/adapters",
)
NOT_HERE = (
    *("/v1/responses", "/v1/moderations", "/v1/audio", "/v1/images", "/v1/files", "/v1/batches"),
    *("/v1/fine_tuning", "/v1/assistants", "/v1/threads", "/v1/messages"),
)
"""Routes of OpenAI's API, and the one of Anthropic's, that clients may look for."""


class InvalidRequest(ApiError):
    """The body is not what the route takes; `param` names the field, and so will the message."""


class UnknownParameter(InvalidRequest):
    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class InvalidJSON(ApiError):
    code = "invalid_json"


class BodyTooLarge(ApiError):
    status_code = 413
    code = "request_too_large"


class RequestTimeout(ApiError):
    """Of a request that came too slowly."""

    status_code = 408
    code = "request_timeout"
    retry_after_s = 1


class AddressTooLong(ApiError):
    status_code = 414
    code = "address_too_long"


class HeadersTooLarge(ApiError):
    status_code = 431
    code = "headers_too_large"


class UnsupportedMediaType(ApiError):
    status_code = 415
    code = "unsupported_media_type"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class ModelNotFound(ApiError):
    status_code = 404
    code = "model_not_found"


class AdapterRefused(ApiError):
    """The engine cannot serve this adapter; the message says why."""

    code = "adapter_refused"


class NameTaken(ApiError):
    """409: a model has this name, or an alias."""

    status_code = 409
    code = "name_taken"

    def __init__(self, name: str, message: str = "") -> None:
        super().__init__(
            message or f"The name '{name}' is taken by another model or alias; give another one.",
            param="name",
        )


class UnknownRoute(ApiError):
    status_code = 404
    code = "unknown_route"


class MethodNotAllowed(ApiError):
    status_code = 405
    code = "method_not_allowed"


class HostNotAllowed(ApiError):
    code = "host_not_allowed"


class ServerUnavailable(ApiError):
    """Not now: loading, draining, overloaded, or the database is away. Clients may try again."""

    status_code = 503
    error_type = "server_error"
    code = "unavailable"
    retry_after_s = RETRY_AFTER_S


class Overloaded(ServerUnavailable):
    """Too much at once. One line in the log for each is enough: there will be many."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(f"{message} Try again in a moment.", retry_after_s=retry_after_s)


class GenerationFailed(ApiError):
    """The engine could not answer this request. A retry would meet the same, so clients should
    not."""

    status_code = 500
    error_type = "server_error"
    code = "generation_failed"


class TemplateFailed(ApiError):
    """The server's chat template broke over these messages, instead of refusing them with a
    sentence of its own. The client can do nothing about it."""

    status_code = 500
    error_type = "server_error"
    code = "template_failed"
    quotes = True


class EngineLost(ApiError):
    """The engine process ended while it worked on this request; a new one is being started."""

    status_code = 503
    error_type = "server_error"
    code = "engine_lost"
    retry_after_s = RETRY_AFTER_S


class InternalError(ApiError):
    """A bug of ours: the client sees this sentence, the log the traceback."""

    status_code = 500
    error_type = "server_error"
    code = "internal_error"


class AsgiNeeded(ApiError):
    """The door was asked by a server that is none of ours."""

    status_code = 501
    error_type = "server_error"
    code = "asgi_needed"


def as_api_error(exception: BaseException) -> ApiError:
    """Any exception as an `ApiError`. What nobody foresaw is logged and becomes an
    `InternalError`."""
    match exception:
        case ApiError():
            return exception
        case drf.NotAuthenticated() | drf.AuthenticationFailed():
            return InvalidApiKey(str(exception.detail))
        case drf.MethodNotAllowed():
            return MethodNotAllowed(str(exception.detail)[:100])
        case drf.ValidationError():
            return first_problem(exception.detail)
        case drf.APIException():
            return ApiError(
                str(exception.detail),
                code=str(exception.default_code),
                status_code=exception.status_code,
            )
        case OperationalError() | InterfaceError():
            logger.error("The database failed", exc_info=exception)
            return ServerUnavailable("The database does not answer.", code="database_unavailable")
        case DisallowedHost():
            return HostNotAllowed(
                "This host name is not served here. The operator names the allowed ones in "
                "ALLOWED_HOSTS."
            )
        case RequestDataTooBig():
            return BodyTooLarge("The request body is too large.")
        case SuspiciousOperation():  # a query string of thousands of fields
            return InvalidRequest("The request could not be understood.")
        case Http404():
            return UnknownRoute("There is nothing here. The routes are listed at /docs/.")
        case PermissionDenied():
            return PermissionRefused("You may not do this.")
    logger.error("Unexpected error", exc_info=exception)
    return InternalError("The server met an unexpected error. It has been logged.")


def envelope(error: ApiError) -> dict[str, Any]:
    """OpenAI's error body; all four keys are always there. A key that the client put where none
    belongs, in a path or for the name of a model, is not repeated: errors get into others' logs."""
    names_field = isinstance(error, InvalidRequest)
    message = about(error.param, error.message) if names_field else error.message
    return {
        "error": {
            "message": without_keys(message),
            "type": error.error_type,
            "param": None if error.param is None else without_keys(error.param),
            "code": error.code,
        }
    }


def about(path: str | None, sentence: str) -> str:
    """The sentence with the field's path in quotes, for of an error the SDKs show nothing else: as
    the subject of one that begins with its verb ("Must be at most 2."), in place of its bare name,
    or else in front."""
    subject = f"'{path}'" if path else "The request body"
    verb, _, rest = sentence.removeprefix("This field ").partition(" ")
    if verb in ("Must", "May", "is", "may"):
        return f"{subject} {verb.lower()} {rest}"
    if not path or subject in sentence:
        return sentence
    name = path.rpartition(".")[2]
    if f"'{name}'" in sentence:
        return sentence.replace(f"'{name}'", subject, 1)
    return f"{subject}: {sentence}"


def first_problem(detail: Any, path: str = "") -> ApiError:
    """The first problem of a serializer's nested errors, as an error that names the field.

    `{"messages": [{}, {"content": ["must be a string"]}]}` names `messages[1].content`. A problem
    may itself be an `ApiError` code carried by DRF's ErrorDetail (`unknown_parameter`, ...).
    """
    if isinstance(detail, Mapping):
        key, inner = next(iter(detail.items()))
        if key == "non_field_errors":
            return first_problem(inner, path)
        if isinstance(key, int):  # DRF's ListField names the items that failed by their index
            return first_problem(inner, f"{path}[{key}]")
        return first_problem(inner, f"{path}.{key}" if path else str(key))
    if isinstance(detail, list):
        for index, inner in enumerate(detail):
            if isinstance(inner, Mapping):
                if inner:
                    return first_problem(inner, f"{path}[{index}]")
            elif inner:
                return first_problem(inner, path)
    code = getattr(detail, "code", None)
    kind: dict[str, type[ApiError]] = {
        "unknown_parameter": UnknownParameter,
        "unsupported_parameter": UnsupportedParameter,
    }
    return kind.get(str(code), InvalidRequest)(str(detail), param=path or None)


def exception_handler(exception: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's hook: the envelope, for every plain view."""
    metrics.failed_in("views", exception)
    error = as_api_error(exception)
    metrics.error_sent(error.status_code, error.code, error.error_type)
    return Response(
        envelope(error),
        status=error.status_code,
        headers=error.headers,
        content_type="application/json",  # also where the answer would be of another type
    )


def json_error(exception: BaseException) -> JsonResponse:
    """The envelope as a Django response, for what fails outside DRF."""
    error = as_api_error(exception)
    metrics.error_sent(error.status_code, error.code, error.error_type)
    return JsonResponse(envelope(error), status=error.status_code, headers=error.headers)


# Django's handlers of last resort (config.urls). Browsers that want a page get one, all else JSON.


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    # Of a host that is not ours nothing more is read, not even which language it wants.
    if isinstance(exception, DisallowedHost | RequestDataTooBig):
        return json_error(exception)
    if pages.wants_page(request):
        return pages.bad_request_page()
    if isinstance(exception, ApiError):
        return json_error(exception)
    return json_error(InvalidRequest("The request could not be understood."))


def not_allowed(request: HttpRequest, exception: Exception) -> HttpResponse:
    return pages.not_allowed_page() if pages.wants_page(request) else json_error(exception)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if pages.wants_page(request):
        return pages.form_too_old_page()
    return json_error(PermissionDenied())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if pages.wants_page(request):
        return pages.not_found_page()
    path = request.path[:200]
    return json_error(UnknownRoute(f"{what_instead_of(path)} See /docs/ for the routes."))


def what_instead_of(path: str) -> str:
    """That there is no such route, and which one may have been meant: one whose name is nearly this
    one's, whatever stands before it."""
    absent = next((route for route in NOT_HERE if f"{path}/".startswith(f"{route}/")), None)
    if absent:
        return f"This server does not have {absent}; it has {', '.join(ROUTES)}."
    names = {route.removeprefix("/v1/"): route for route in ROUTES}
    name = path.lower().rpartition("/v1/")[2].strip("/")
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    hint = f" Did you mean {names[nearest[0]]}?" if nearest else ""
    return f"There is no {path} here.{hint}"


def overloaded(request: HttpRequest) -> HttpResponse:
    error = Overloaded("The server is busy with other requests.")
    if pages.wants_page(request):
        metrics.error_sent(error.status_code, error.code)
        return pages.error_page(
            503, _("The server is busy"), _("Try again in a moment."), error.headers
        )
    return json_error(error)


def server_error(request: HttpRequest) -> HttpResponse:
    metrics.failed_in("views", sys.exception())
    if pages.wants_page(request):
        return pages.server_error_page()
    return json_error(InternalError("The server met an unexpected error. It has been logged."))
