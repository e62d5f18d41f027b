"""Who answers what: POST of the door goes to consumers, everything else to Django."""

from collections.abc import Mapping
from typing import Any

from channels.routing import ProtocolTypeRouter

from llmapi.door import ChatCompletionConsumer, CompletionConsumer, EmbeddingConsumer


class Door:
    """POST of a path to its consumer, all else to another application.

    Channels' URLRouter tries one pattern after the other, and does not look at the method.
    """

    def __init__(self, posts: Mapping[str, Any], other: Any) -> None:
        self.posts = posts
        self.other = other

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        application = None
        if scope["method"].upper() == "POST":  # Django takes `post` for it too
            # A proxy may tell daphne below which path it has put this server.
            application = self.posts.get(scope["path"].removeprefix(scope.get("root_path", "")))
        await (application or self.other)(scope, receive, send)


def application(django: Any) -> ProtocolTypeRouter:
    """The ASGI application: the door before Django's."""
    posts = {
        "/v1/chat/completions": ChatCompletionConsumer.as_asgi(),
        "/v1/completions": CompletionConsumer.as_asgi(),
        "/v1/embeddings": EmbeddingConsumer.as_asgi(),
    }
    return ProtocolTypeRouter({"http": Door(posts, django), "websocket": no_websockets})


async def no_websockets(scope: Any, receive: Any, send: Any) -> None:
    """There are none here; the handshake is refused."""
    await send({"type": "websocket.close"})
