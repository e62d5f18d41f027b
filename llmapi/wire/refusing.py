"""What is no request that can be served, before any application hears of it: refused in OpenAI's
envelope, as all else is. Twisted's own answer has no body, and daphne's is a page."""

import json
import logging
from http import HTTPStatus
from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.web.http import HTTPChannel

from llmapi.errors import ApiError, InternalError, envelope
from llmapi.middleware import new_request_id
from llmapi.wire.head import StrictHead

logger = logging.getLogger(__name__)

LINGER_S = 2.0
"""How long a refused client may go on sending. With unread bytes in it, a connection that is closed
is reset, and the client may never see why."""

LONGEST_CONTENT_LENGTH = 18
"""Digits. Nobody has more bytes to send, and Python reads no number of thousands of digits."""


class AddressTooLong(ApiError):
    status_code = 414
    code = "address_too_long"


class HeadersTooLarge(ApiError):
    status_code = 431
    code = "headers_too_large"


class RefusingChannel(HTTPChannel):
    """One connection: its bytes are requests, or it is told what is wrong and closed."""

    transport: Any
    _is_refused = False
    _end_of_lingering: Any = None

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's names, all of these)
        if not self._is_refused:
            super().dataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802
        if self.requests:
            self.refuse_headers()
        else:
            most = self.totalHeadersSize
            self.refuse(AddressTooLong(f"The first line may have {most} bytes at most."))

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:  # noqa: N802
        if header == b"Content-Length" and len(data) > LONGEST_CONTENT_LENGTH:
            return bool(self._failChooseTransferDecoder())
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        if (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        ):
            self.refuse_headers()
        else:
            self.refuse(ApiError("This is not a request in HTTP/1.1.", code="invalid_http"))

    def refuse_headers(self) -> None:
        self.refuse(
            HeadersTooLarge(
                f"The headers of a request may have {self.totalHeadersSize} bytes and be "
                f"{self.maxHeaders} at most."
            )
        )

    def refuse(self, error: ApiError) -> None:
        """Answer, and hear no more of this client."""
        if self._is_refused:
            return
        self._is_refused = True
        self.clearLineBuffer()
        self.setTimeout(None)
        status = HTTPStatus(error.status_code)
        content, headers = answer_of(error)
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
            *(f"Content-Length: {len(content)}", "Connection: close"),
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + content)
        self._networkProducer.unregisterProducer()
        self.transport.loseWriteConnection()
        self._end_of_lingering = self.callLater(LINGER_S, self.transport.abortConnection)

    def connectionLost(self, reason: Any = connectionDone) -> None:  # noqa: N802
        if self._end_of_lingering is not None and self._end_of_lingering.active():
            self._end_of_lingering.cancel()
        super().connectionLost(reason)


class RefusingRequest(StrictHead):
    def process(self) -> Any:
        # There are no other protocols here, and a request that offers one may be answered in HTTP.
        self.requestHeaders.removeHeader(b"upgrade")
        return super().process()

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        """What daphne found wrong; of its own breaks it has logged the traceback."""
        error = (
            ApiError(f"{body}.", code="invalid_http")
            if status < 500
            else InternalError("The server met an unexpected error. It has been logged.")
        )
        content, headers = answer_of(error)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        length = (b"Content-Length", str(len(content)).encode())
        start = {"status": error.status_code, "headers": [*pairs, length]}
        self.handle_reply({"type": "http.response.start", **start})
        self.handle_reply({"type": "http.response.body", "body": content})


def answer_of(error: ApiError) -> tuple[bytes, dict[str, str]]:
    """Body and headers; what was refused is a line in the log."""
    request_id = new_request_id()
    logger.info("%s refused: %d, %s", request_id, error.status_code, error.message)
    headers = {
        "Server": "llmapi",
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": request_id,
        **error.headers,
    }
    return json.dumps(envelope(error)).encode() + b"\n", headers
