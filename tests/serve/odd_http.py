"""Requests that no client library would send, each with what it gets: status and code. None for a
code: it is served."""

import json
from dataclasses import dataclass, field
from typing import Any

from tests.serve.raw import request

CHAT = "POST /v1/chat/completions HTTP/1.1"
MODELS = "GET /v1/models HTTP/1.1"
GOOD = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}).encode()
MALFORMED, NO_ROUTE = "invalid_http", "unknown_route"
TOO_LONG, TOO_LARGE = "address_too_long", "headers_too_large"


@dataclass(frozen=True)
class Odd:
    line: str
    status: int
    code: str | None = None
    headers: tuple[str | bytes, ...] = ()
    body: bytes = b""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `request`."""

    def __str__(self) -> str:
        headers = [str(header)[:60] for header in self.headers]
        return f"{self.line[:80]!r} {headers} {self.options} {self.body[:40]!r}"

    def as_bytes(self, key: str) -> bytes:
        return request(self.line, *self.headers, body=self.body, **{"key": key} | self.options)


def chat(status: int, code: str | None, *headers: str | bytes, **options: Any) -> Odd:
    """A good chat, with these headers besides."""
    return Odd(CHAT, status, code, headers, GOOD, options)


def sent(status: int, code: str | None, framing: str, body: bytes) -> Odd:
    """A chat whose body comes as `framing` says."""
    return Odd(CHAT, status, code, (framing,), body, {"length": False})


def get(status: int, code: str | None, target: str, *headers: str | bytes, **options: Any) -> Odd:
    return Odd(f"GET {target} HTTP/1.1", status, code, headers, b"", options)


def first_line(line: str, status: int = 400, code: str | None = MALFORMED, **options: Any) -> Odd:
    return Odd(line, status, code, options=options)


def chunks(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


CHUNKED = "Transfer-Encoding: chunked"

LINES = [
    first_line("hello"),
    first_line("GET"),
    first_line("GET /v1/models"),
    first_line("GET /v1/models HTTP/0.9"),
    first_line("GET /v1/models HTTP/2.0"),
    first_line("GET /v1/models HTTP/1.1 x"),
    first_line("GET  /v1/models HTTP/1.1"),
    first_line("PRI * HTTP/2.0"),
    first_line("G\u00c9T /v1/models HTTP/1.1"),
    first_line("G(T /v1/models HTTP/1.1"),
    first_line("GET /v1/mod\u00e8les HTTP/1.1"),
    first_line("GET /v1/mo\x00dels HTTP/1.1"),
    first_line("GET /v1/usage?a=\u00e9 HTTP/1.1"),
    first_line("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),  # TLS
    first_line("GET /" + "a" * 20_000 + " HTTP/1.1", 414, TOO_LONG),
    first_line("GET /v1/models HTTP/1.0", 200, None),
    first_line("GET /v1/models HTTP/1.0", 200, None, host=None),
    first_line("GET http://localhost/v1/models HTTP/1.1", 200, None, host="elsewhere.example"),
    first_line("GET HTTPS://localhost/v1/models?x HTTP/1.1", 200, None),
    first_line("GET http://elsewhere.example/v1/models HTTP/1.1", 400, "host_not_allowed"),
    first_line("GET http://user@localhost/v1/models HTTP/1.1", 400, "host_not_allowed"),
    first_line("GET http:///v1/models HTTP/1.1", 400, "host_not_allowed"),
    first_line("GET ftp://localhost/v1/models HTTP/1.1", 404, NO_ROUTE),
    first_line("CONNECT localhost:80 HTTP/1.1", 404, NO_ROUTE),
    first_line("OPTIONS * HTTP/1.1", 404, NO_ROUTE),
    first_line("TRACE /v1/models HTTP/1.1", 405, "method_not_allowed"),
    first_line("A" * 10_000 + " /v1/models HTTP/1.1", 405, "method_not_allowed"),
    Odd("post /v1/chat/completions HTTP/1.1", 200, body=GOOD),
]

TARGETS = [
    get(404, "model_not_found", "/v1/models/%zz%"),
    get(404, "model_not_found", "/v1/models/%ff%fe"),
    get(404, "model_not_found", "/v1/models/%ed%a0%80"),
    get(400, None, "/v1/models/%00"),
    get(404, NO_ROUTE, "/v1/models/%0d%0aX:y"),
    get(404, NO_ROUTE, "/v1/../../etc/passwd"),
    get(404, NO_ROUTE, "//v1/models"),
    get(404, NO_ROUTE, "/v1/models#fragment"),
    get(404, NO_ROUTE, "/static/..%2f..%2fetc%2fpasswd"),
    get(404, NO_ROUTE, "/static/../../../etc/passwd"),
    get(404, NO_ROUTE, "/static/%00"),
    get(404, NO_ROUTE, "/static/" + "a" * 9000),
    get(404, NO_ROUTE, "/static/"),
    get(400, "unknown_parameter", "/v1/usage?%zz=%ff"),
    get(400, "unknown_parameter", "/v1/usage?a=" + "x" * 15_000),
    get(414, TOO_LONG, "/v1/usage?a=" + "x" * 20_000),
    get(400, None, "/v1/usage?" + "a&" * 3000),
]

HEADERS = [
    *(
        chat(400, MALFORMED, line)
        for line in ("nonsense", ": x", "X Y: z", "X-Y : z", "X\u00e9: z")
    ),
    *(chat(400, MALFORMED, line) for line in ("X-Y: a\x00b", "X-Y: a\rb", "X-Y: a\nb")),
    chat(400, MALFORMED, "X-Good: 1", "nonsense", "X-Good: 2"),
    chat(200, None, "Content_Length: 1", "Authorization_: x", "X_Y: z"),
    chat(200, None, "X-Y: \u00e9\u00ff"),
    chat(200, None, "X-Y: a\r\n folded"),
    chat(200, None, "X-Empty:"),
    chat(200, None, *(f"X-{number}: a" for number in range(400))),
    chat(431, TOO_LARGE, *(f"X-{number}: a" for number in range(600))),
    chat(431, TOO_LARGE, "X-Y: " + "a" * 20_000),
    chat(431, TOO_LARGE, *["X-Y: " + "a" * 5_000] * 4),
    chat(400, "host_not_allowed", host="elsewhere.example"),
    chat(400, "host_not_allowed", host="a b"),
    chat(400, "host_not_allowed", host="\u00e9"),
    chat(400, "host_not_allowed", host=""),
    chat(400, "host_not_allowed", "Host: localhost"),
    chat(401, "invalid_api_key", key=""),
    chat(401, "invalid_api_key", "Authorization: Bearer \u00e9", key=""),
    chat(401, "invalid_api_key", "Authorization: Bearer", key=""),
    chat(401, "invalid_api_key", "Authorization: Basic YTpi", key=""),
    chat(401, "invalid_api_key", "Authorization: Bearer x"),  # a second one
    chat(415, "unsupported_media_type", kind=None),
    chat(415, "unsupported_media_type", "Content-Type: text/plain"),  # a second one
    chat(415, "unsupported_media_type", kind="application/json; charset=zlib"),
    chat(415, "unsupported_media_type", kind="application/json; charset=\u00e9"),
    chat(200, None, kind="application/json; charset*=nonsense'en'x"),
    get(200, None, "/v1/models", kind="application/json; charset*=nonsense'en'x"),
    get(200, None, "/v1/models", kind="multipart/form-data; boundary=\u00e9; charset=zlib"),
    chat(415, "unsupported_media_type", "Content-Encoding: gzip"),
    chat(200, None, "Content-Encoding: identity"),
    chat(200, None, "Expect: 100-continue"),
    chat(200, None, "Expect: tea"),
    # What is offered besides HTTP/1.1 is not taken.
    chat(200, None, "Upgrade: websocket", "Connection: Upgrade"),
    get(200, None, "/v1/models", "Upgrade: websocket", "Connection: Upgrade"),
    get(404, NO_ROUTE, "/%ff", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    get(200, None, "/v1/models", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
    *(
        get(400, MALFORMED, "/v1/models", f"Daphne-Root-Path: {path}")
        for path in ("\u00e9", "%ff", "%00", "/%0d%0aX:y", "x", "//elsewhere.example")
    ),
    get(200, None, "/llm/v1/models", "Daphne-Root-Path: /llm"),
    get(200, None, "/v1/models", "X-Forwarded-For: \u00e9, nonsense, ::1%", "X-Forwarded-Proto: x"),
]

FRAMING = [
    *(
        sent(400, MALFORMED, f"Content-Length: {length}", GOOD)
        for length in ("abc", "-5", "+5", "5.0", "0x10", "5, 5", "", "1" * 5000)
    ),
    sent(413, "request_too_large", "Content-Length: " + "9" * 18, GOOD),
    chat(400, MALFORMED, "Content-Length: 5"),  # a second one
    chat(400, MALFORMED, CHUNKED),  # and a length
    *(
        sent(400, MALFORMED, f"Transfer-Encoding: {coding}", GOOD)
        for coding in ("gzip", "chunked, gzip", "gzip, chunked", "xchunked", "chunked;")
    ),
    sent(200, None, CHUNKED, chunks(GOOD)),
    sent(200, None, CHUNKED, chunks(*(GOOD[i : i + 1] for i in range(len(GOOD))))),
    sent(200, None, CHUNKED, chunks(GOOD, end=b"0\r\nX-Trailer: 1\r\n\r\n")),
    sent(200, None, CHUNKED, b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)),
    sent(400, "invalid_json", CHUNKED, chunks()),
    sent(400, "invalid_json", CHUNKED, chunks(GOOD[:-1])),
    sent(400, MALFORMED, CHUNKED, b"zz\r\n" + GOOD),
    sent(400, MALFORMED, CHUNKED, b"-5\r\n" + GOOD),
    sent(400, MALFORMED, CHUNKED, b"5\r\n" + GOOD),
    sent(400, MALFORMED, CHUNKED, b"\r\n" + GOOD),
    sent(400, MALFORMED, CHUNKED, b"f" * 2000 + b"\r\n" + GOOD),
    sent(400, MALFORMED, CHUNKED, b"zz\r\n" + b"x" * 1_000_000),
    sent(400, MALFORMED, CHUNKED, chunks(GOOD, end=b"0\r\n" + b"X: " + b"a" * 70_000)),
    sent(400, "invalid_json", f"Content-Length: {len(GOOD) - 5}", GOOD),
    sent(400, "invalid_json", "Content-Length: 0", b""),
    sent(400, "invalid_json", "X-No: length", GOOD),
]

TABLE = [*LINES, *TARGETS, *HEADERS, *FRAMING]
