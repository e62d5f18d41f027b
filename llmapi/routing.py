"""Who answers what: POST of the door goes to consumers, everything else to Django."""

from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path

from llmapi.consumers import ChatCompletionConsumer, CompletionConsumer, EmbeddingConsumer


class ByMethod:
    """POST to one application, every other method of the same path to another.

    Channels' URLRouter matches on the path alone.
    """

    def __init__(self, post: Any, other: Any) -> None:
        self.post = post
        self.other = other

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        application = self.post if scope["method"] == "POST" else self.other
        await application(scope, receive, send)


def application(django: Any) -> ProtocolTypeRouter:
    """The ASGI application: the door before Django's."""
    door = {
        "v1/chat/completions": ChatCompletionConsumer,
        "v1/completions": CompletionConsumer,
        "v1/embeddings": EmbeddingConsumer,
    }
    # Django's types know path() for views only; Channels gives it ASGI applications.
    to: Any = path
    routes = [to(route, ByMethod(c.as_asgi(), django)) for route, c in door.items()]
    return ProtocolTypeRouter(
        {"http": URLRouter([*routes, re_path(r"", django)]), "websocket": no_websockets}
    )


async def no_websockets(scope: Any, receive: Any, send: Any) -> None:
    """There are none here; the handshake is refused."""
    await send({"type": "websocket.close"})
