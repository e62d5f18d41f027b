"""GET /health and /ready on the event loop. Who wants to know whether the server is there waits
neither for a thread nor for a database that says nothing; Django's handler would take a thread, and
a new connection, for each."""

import functools
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import ResolverMatch, resolve

from accounts.middleware import ContentSecurityPolicyMiddleware
from llmapi import payloads
from llmapi.asgi import StrictRequest, send_response
from llmapi.errors import RETRY_AFTER_S
from llmapi.middleware import RequestIdMiddleware
from llmapi.readiness import Readiness

COMPACT = {"separators": (",", ":")}


class Probes:
    """Before an application that answers all else, HEAD among it."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.readiness = Readiness()
        views = {"/health": self.health, "/ready": self.ready}
        self.answers = {path: self.answering(view) for path, view in views.items()}

    def answering(self, view: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Any:
        """With what Django's middleware puts on every answer."""
        return RequestIdMiddleware(ContentSecurityPolicyMiddleware(view))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        answer = self.answers.get(path) if scope["method"] == "GET" else None
        if answer is None:
            await self.application(scope, receive, send)
            return
        request = StrictRequest({**scope, "query_string": b""}, BytesIO())
        request.resolver_match = route_of(path)
        await send_response(await answer(request), send)

    async def health(self, request: HttpRequest) -> HttpResponse:
        return JsonResponse(payloads.healthy(), json_dumps_params=COMPACT)

    async def ready(self, request: HttpRequest) -> HttpResponse:
        reason = await self.readiness.why_not()
        response = JsonResponse(payloads.readiness(reason), json_dumps_params=COMPACT)
        if reason is not None:
            response.status_code = 503
            response["Retry-After"] = str(RETRY_AFTER_S)
        return response


@functools.cache
def route_of(path: str) -> ResolverMatch:
    return resolve(path)
