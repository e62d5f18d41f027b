"""The ASGI application. `manage.py serve` starts the models beside it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections

django.setup(set_prefix=False)

from llmapi.asgi import StaticFiles, StrictHandler  # noqa: E402
from llmapi.places import Seated  # noqa: E402
from llmapi.probes import Probes  # noqa: E402
from llmapi.routing import application as door_before  # noqa: E402


class ClosingHandler(StrictHandler):
    """Closes the database connections that a request opened, before its answer begins: a client
    that reads slowly holds none.

    Django runs the views of each request on a thread of its own, which then ends; with
    CONN_MAX_AGE=None (for the door's executor threads, which live on) its connection would be left
    behind.
    """

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().handle(scope, receive, send)
        finally:
            await self.close_connections()

    async def send_response(self, response: Any, send: Any) -> None:
        await self.close_connections()
        await super().send_response(response, send)

    async def close_connections(self) -> None:
        # thread-sensitive: on the very thread that the views ran on
        await sync_to_async(connections.close_all, thread_sensitive=True)()


views: Any = Seated(ClosingHandler(), settings.LLMAPI.max_views)
application = door_before(Probes(StaticFiles(views)))
