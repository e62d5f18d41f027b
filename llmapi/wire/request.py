"""One request, between its connection and the application."""

import time
from typing import Any

from llmapi import metrics
from llmapi.errors import ApiError, InternalError, envelope
from llmapi.request_ids import new_request_id
from llmapi.sse import encode_json
from llmapi.wire.bodies import Body
from llmapi.wire.head import StrictHead


class DoorRequest(StrictHead):
    gone_because = ""
    """Why the client counts as gone, if it did not leave by itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Twisted would parse forms on the event loop, megabytes too; Django parses its own.
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)

    def gotLength(self, length: int | None) -> None:  # noqa: N802 (Twisted's name)
        self.content = Body(self.channel.connections.bodies)

    def process(self) -> Any:
        # There are no other protocols here, and a request that offers one may be answered in HTTP.
        self.requestHeaders.removeHeader(b"upgrade")
        return super().process()

    def forget_body(self) -> None:
        """The application has understood it."""
        if getattr(self, "content", None) is not None:
            self.content.release()

    def drop_body(self) -> None:
        """Nobody wants it."""
        if self.content is not None:
            self.content.close()

    def handle_reply(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.forget_body()
            message = {**message, "headers": self.named([*message.get("headers", [])])}
        super().handle_reply(message)

    def named(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """With the headers that every answer has: the door's and Django's bring theirs, files have
        none."""
        if not any(name.lower() == b"x-request-id" for name, _ in headers):
            took_ms = round((time.time() - self.request_start) * 1000)
            headers.append((b"x-request-id", new_request_id().encode()))
            headers.append((b"openai-processing-ms", str(took_ms).encode()))
        return headers

    def send_disconnect(self) -> None:
        if self.path:
            reason = {"reason": self.gone_because} if self.gone_because else {}
            self.application_queue.put_nowait({"type": "http.disconnect", **reason})

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        """daphne's own errors, in the envelope."""
        if status < 500:
            error = ApiError(f"{body}.", code="invalid_http")
        else:
            error = InternalError("The server met an unexpected error. It has been logged.")
        metrics.error_sent(status, error.code)
        content = encode_json(envelope(error)) + b"\n"
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"x-content-type-options", b"nosniff"),
            *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
        ]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        self.handle_reply(start)
        self.handle_reply({"type": "http.response.body", "body": content})

    def handle_exception(self, exception: BaseException) -> None:
        """In the middle of an answer there is no room for another: the connection is broken off,
        and what came is not taken for the whole. (daphne's own way raises, in the very function
        that looks after all connections.)"""
        if not self._response_started:
            super().handle_exception(exception)
        elif not self.finished and self.channel is not None:
            self.channel.forceAbortClient()
