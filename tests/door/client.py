"""A client of the ASGI application itself: every byte passes the real door, without a socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from config.asgi import application


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]


class Call:
    """One request under way. `disconnect` is what the server hears when a client goes away."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.ended = False
        self.task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        try:
            await application(self.scope, self.inbox.get, self.outbox.put)
        finally:
            await self.outbox.put(None)

    async def send_body(self, *pieces: bytes) -> None:
        for number, piece in enumerate(pieces, 1):
            more = number < len(pieces)
            await self.inbox.put({"type": "http.request", "body": piece, "more_body": more})

    async def disconnect(self) -> None:
        await self.inbox.put({"type": "http.disconnect"})
        await asyncio.wait_for(asyncio.wait([self.task]), 10)

    async def message(self) -> dict[str, Any] | None:
        return await asyncio.wait_for(self.outbox.get(), 60)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, after the headers were read."""
        while (message := await self.message()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body"):
                self.ended = True
                return

    async def start(self) -> Answer:
        """Status and headers; the body is still to come."""
        message = await self.message()
        assert message is not None, "the application ended without an answer"
        assert message["type"] == "http.response.start"
        headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        return Answer(message["status"], headers, b"")

    async def answer(self) -> Answer:
        answer = await self.start()
        answer.body = b"".join([piece async for piece in self.pieces()])
        await self.disconnect()  # as daphne does after a complete answer
        return answer

    async def events(self) -> AsyncIterator[Any]:
        """The JSON of each `data:` event; "[DONE]" as it is. Comments are left out."""
        buffer = b""
        async for piece in self.pieces():
            buffer += piece
            while b"\n\n" in buffer:
                event, buffer = buffer.split(b"\n\n", 1)
                if event.startswith(b"data: "):
                    data = event.removeprefix(b"data: ").decode()
                    yield data if data == "[DONE]" else json.loads(data)
        assert not buffer, f"an event was cut: {buffer!r}"


def call(
    method: str,
    path: str,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    content_type: str = "application/json",
) -> Call:
    sent = {"host": "localhost", "content-type": content_type}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    sent.update(headers or {})
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    return Call(scope)


@dataclass
class Client:
    """Calls the door with one key."""

    key: str | None = None

    async def post(self, path: str, body: Any, **kwargs: Any) -> Answer:
        """`body`: bytes as they are, anything else as JSON."""
        under_way = await self.begin(path, body, **kwargs)
        return await under_way.answer()

    async def begin(self, path: str, body: Any, **kwargs: Any) -> Call:
        under_way = call("POST", path, self.key, **kwargs)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        # as daphne delivers it: in pieces of 8 KiB
        await under_way.send_body(*(data[i : i + 8192] for i in range(0, len(data) or 1, 8192)))
        return under_way

    async def get(self, path: str, **kwargs: Any) -> Answer:
        return await self.request("GET", path, **kwargs)

    async def request(self, method: str, path: str, **kwargs: Any) -> Answer:
        under_way = call(method, path, self.key, **kwargs)
        await under_way.send_body(b"")
        return await under_way.answer()

    @asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[Call]:
        """A streamed request; the client leaves at the end of the block."""
        under_way = await self.begin(path, {**body, "stream": True})
        try:
            yield under_way
        finally:
            await under_way.disconnect()

    async def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        """All events of a streamed answer, [DONE] included."""
        async with self.stream(path, body) as under_way:
            answer = await under_way.start()
            assert answer.status == 200, answer
            assert answer.headers["content-type"].startswith("text/event-stream")
            return [event async for event in under_way.events()]

    async def chat(self, text: str = "Hello", **parameters: Any) -> Any:
        """The JSON of a chat's answer."""
        body = {"messages": [{"role": "user", "content": text}], **parameters}
        answer = await self.post("/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        return answer.json()
