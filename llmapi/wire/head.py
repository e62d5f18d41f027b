"""The heads of requests: what daphne takes for something else, or breaks over."""

import re
import time
from typing import Any
from urllib.parse import unquote

from daphne.http_protocol import WebRequest

ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
ROOT_PATH = re.compile(r"/?|/[^/].*")


class StrictHead(WebRequest):
    """A request whose head is read as RFC 9112 says; `basic_error` refuses it."""

    method: bytes
    uri: bytes
    path: bytes

    def process(self) -> Any:
        self.request_start = time.time()  # as daphne does, but before anything is refused
        self.read_target()
        if not self.has_root_path():
            return self.basic_error(400, b"Bad Request", "Invalid Daphne-Root-Path header")
        return super().process()

    def read_target(self) -> None:
        """Of `GET http://host/path HTTP/1.1`, as clients ask proxies, the host and the path."""
        if found := ABSOLUTE.fullmatch(self.uri):
            host, rest = found.groups()
            self.uri = rest if rest.startswith(b"/") else b"/" + rest
            self.path = self.uri.partition(b"?")[0]
            self.requestHeaders.setRawHeaders(b"host", [host])

    def has_root_path(self) -> bool:
        """Whether what a proxy says it puts before all addresses, if it does, is a path."""
        paths = self.requestHeaders.getRawHeaders(b"daphne-root-path", [])
        paths = [unquote(path.decode("latin-1")) for path in paths]
        return all(p.isascii() and p.isprintable() and ROOT_PATH.fullmatch(p) for p in paths)

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Of HEAD, no byte of a body leaves. daphne goes past Twisted's own care for that when an
        answer comes in pieces, which the client would take for the next answer."""
        if self.method == b"HEAD" and message.get("body"):
            message = {**message, "body": b""}
        super().handle_reply(message)
