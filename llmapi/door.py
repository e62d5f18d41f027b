"""The door: POST /v1/chat/completions, /v1/completions and /v1/embeddings, streamed or not."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import orjson

from llmapi import payloads, sse
from llmapi.completions import run_completion, run_embedding
from llmapi.consumers import NO_STORE, DoorConsumer
from llmapi.engine.messages import Answer, Finish
from llmapi.outcomes import Outcome
from llmapi.serializers import (
    ChatCompletionSerializer,
    CompletionSerializer,
    EmbeddingSerializer,
)
from llmapi.shapes import ChatShape, CompletionShape, Shape
from llmapi.views import ChatCompletionsView, CompletionsView, EmbeddingsView

KEEP_ALIVE_S = 10.0


class GenerationConsumer(DoorConsumer):
    """Chat and completion: the same life, different JSON."""

    shape: ClassVar[type[ChatShape] | type[CompletionShape]]
    asked: ChatCompletionSerializer | CompletionSerializer

    async def answer(self, outcome: Outcome) -> None:
        shape = self.shape(outcome, self.request)
        if self.asked.streamed:
            await self.stream(shape, self.asked.include_usage)
        else:
            await run_completion(outcome, outcome.collect, shape.whole)
            await self.send_json(shape.whole())

    def retell(self, answer: bytes) -> bytes:
        if not self.asked.streamed:
            return answer
        chunks = self.shape.retold(orjson.loads(answer), include_usage=self.asked.include_usage)
        return b"".join(map(sse.event, chunks)) + sse.DONE

    async def answer_again(self) -> None:
        if self.asked.streamed:
            await self.send_events(self.retold, more_body=False)
        else:
            await self.send_whole(self.retold)

    async def stream(self, shape: Shape, include_usage: bool) -> None:
        """Headers go with the first event, so that an early error keeps its status; or, while the
        client waits long, with a comment that keeps proxies from hanging up."""
        self.last_sent = time.monotonic()
        keep_alive = asyncio.get_running_loop().create_task(self.keep_alive())
        finishes: list[dict[str, Any]] = []
        usage = {"usage": None} if include_usage else {}

        async def on_events(events: Sequence[Answer]) -> None:
            """What waits together goes out together."""
            ready: list[bytes] = []
            for event in events:
                if isinstance(event, Finish):
                    # Held back until the row says so too.
                    finishes.append(shape.finish_chunk(event) | usage)
                else:
                    ready += [sse.event(chunk | usage) for chunk in shape.delta_chunks(event)]
            if ready:
                await self.send_events(b"".join(ready))
            await shape.outcome.collect_for_key(events)

        try:
            await run_completion(shape.outcome, on_events, shape.whole)
        finally:
            keep_alive.cancel()
        last = [sse.event(chunk) for chunk in finishes]
        if include_usage:
            last.append(sse.event(shape.usage_chunk()))
        await self.send_events(b"".join(last) + sse.DONE, more_body=False)

    async def send_events(self, data: bytes, *, more_body: bool = True) -> None:
        self.last_sent = time.monotonic()
        if self.status is None:
            self.status = 200
            headers = [
                *self.headers(b"text/event-stream; charset=utf-8"),
                NO_STORE,
                (b"x-accel-buffering", b"no"),  # nginx: pass events on as they come
            ]
            await self.send_headers(status=200, headers=headers)
        await self.send_body(data, more_body=more_body)

    async def keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self.last_sent + KEEP_ALIVE_S - time.monotonic())
            if time.monotonic() - self.last_sent >= KEEP_ALIVE_S:
                await self.send_events(sse.KEEP_ALIVE)


class ChatCompletionConsumer(GenerationConsumer):
    view, shape = ChatCompletionsView, ChatShape


class CompletionConsumer(GenerationConsumer):
    view, shape = CompletionsView, CompletionShape


class EmbeddingConsumer(DoorConsumer):
    view = EmbeddingsView

    asked: EmbeddingSerializer

    async def answer(self, outcome: Outcome) -> None:
        vectors = await run_embedding(outcome, partial(self.embeddings, outcome, as_base64=True))
        await self.send_json(self.embeddings(outcome, vectors, as_base64=self.asked.as_base64))

    def retell(self, answer: bytes) -> bytes:
        # It is kept in base64, which takes a quarter of the room.
        if self.asked.as_base64:
            return answer
        return sse.encode_json(payloads.embeddings_as_numbers(orjson.loads(answer)))

    def embeddings(self, outcome: Outcome, vectors: list[bytes], *, as_base64: bool) -> Any:
        if self.request.dimensions is not None:
            vectors = [payloads.shortened(vector, self.request.dimensions) for vector in vectors]
        return payloads.embedding_list(outcome, vectors, as_base64)
