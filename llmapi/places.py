"""How many requests Django's views work on at once.

Django's ASGI handler gives each request a thread and a database connection of its own: a few
hundred clients at once would take all connections that a database has, also those of the door.
"""

import asyncio
import hashlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils import translation

from accounts.middleware import ContentSecurityPolicyMiddleware, is_api
from llmapi import metrics
from llmapi.asgi import StrictRequest, send_response
from llmapi.errors import overloaded
from llmapi.middleware import RequestIdMiddleware
from llmapi.turns import Turns

WAITING = 256
LONGEST_WAIT_S = 10.0
FEW = 2


class Full(Exception):
    """No place is free, and none will be soon."""


class Places:
    """So many at once; others wait in a line that is neither long nor slow. Owned by the event
    loop."""

    def __init__(self, count: int, waiting: int = WAITING, line: str = "views") -> None:
        """`line`: what the metrics call it."""
        self._turns = Turns(count)
        self._taken_now = metrics.views_in_flight.labels(line)
        self._waiting_now = metrics.views_waiting.labels(line)
        self._waiting = 0
        self._most_waiting = waiting

    async def take(self, lane: str) -> None:
        """Raises Full."""
        if self._waiting >= self._most_waiting:
            raise Full
        self._waiting += 1
        self._waiting_now.inc()
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                await self._turns.take(lane)
        except TimeoutError as error:
            raise Full from error
        finally:
            self._waiting -= 1
            self._waiting_now.dec()
        self._taken_now.inc()

    def leave(self) -> None:
        self._turns.leave()
        self._taken_now.dec()


class Seated:
    """An application whose requests need a place until their answers begin: a long one that is
    read slowly keeps nobody waiting. (So it must hold no connection then.)

    GET of /health and /ready does not come this far (`llmapi.probes`). HEAD of /ready and /metrics
    have a few places of their own, so that they tell of the server and not of the line.
    """

    def __init__(self, application: Any, count: int, waiting: int = WAITING) -> None:
        self.application = application
        self.views = Places(count, waiting)
        self.own = {f"/{line}": Places(FEW, waiting, line) for line in ("ready", "metrics")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/health":
            await self.application(scope, receive, send)
            return
        places = self.own.get(path, self.views)
        try:
            await places.take(lane_of(scope))
        except Full:
            await refuse(scope, send)
            return
        place = Place(places)

        async def send_and_leave(message: dict[str, Any]) -> None:
            place.leave()
            await send(message)

        try:
            await self.application(scope, receive, send_and_leave)
        finally:
            place.leave()


def lane_of(scope: Any) -> str:
    """Who asks, as far as the request says: its key, its session, or else its address. Nobody gets
    more of the places by sending more requests with the same."""
    headers = dict(scope["headers"])
    for name in (b"authorization", b"cookie"):
        if value := headers.get(name):
            return hashlib.sha256(value).hexdigest()
    return str((scope.get("client") or [""])[0])


class Place:
    """One that was taken; it is left once."""

    def __init__(self, places: Places) -> None:
        self._places: Places | None = places

    def leave(self) -> None:
        places, self._places = self._places, None
        if places is not None:
            places.leave()


async def refuse(scope: Any, send: Any) -> None:
    """503 with what Django's middleware puts on every answer. No thread is asked for it."""
    request = StrictRequest({**scope, "query_string": b""}, BytesIO())
    answer: Callable[[HttpRequest], Any] = RequestIdMiddleware(
        ContentSecurityPolicyMiddleware(in_its_language)
    )
    await send_response(answer(request), send)


def in_its_language(request: HttpRequest) -> HttpResponseBase:
    language = "en" if is_api(request.path_info) else translation.get_language_from_request(request)
    with translation.override(language):
        return overloaded(request)
