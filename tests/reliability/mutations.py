"""Requests that are wrong: valid ones, spoiled in ways that leave no doubt that they are.

All come from one random generator, so that a seed makes the same requests again.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.serve.odd_http import TABLE
from tests.serve.raw import request

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO, "max_tokens": 2, "temperature": 0, "n": 1, "stop": ["x"]},
    "/v1/completions": {"prompt": "Hello", "max_tokens": 2, "echo": False, "logprobs": 1},
    "/v1/embeddings": {"input": ["Hello"], "encoding_format": "float"},
    f"{CHAT}/{{chat}}": {"metadata": {"a": "b"}},
    "/v1/conversations": {"metadata": {"a": "b"}, "items": HELLO},
    "/v1/conversations/{conversation}": {"metadata": {"a": "b"}},
    "/v1/conversations/{conversation}/items": {"items": HELLO},
    "/v1/admin/adapters": {"name": "a", "path": "a"},
}
"""What each POST route takes."""

REQUIRED = ("messages", "prompt", "input", "metadata", "items", "name")
DEPTH = 100_000
MOST_BYTES = 1_500_000
"""LLMAPI_MAX_BODY_BYTES of the server."""


@dataclass(frozen=True)
class Spoiled:
    """A request as it goes over the wire. kind: how it was spoiled; param: the field that its
    refusal must name, if that is certain."""

    kind: str
    data: bytes
    param: str | None = None
    ends_connection: bool = False


class Spoiler:
    def __init__(self, seed: int, key: str, objects: dict[str, str]) -> None:
        self.random = random.Random(seed)
        self.key = key
        self.objects = objects
        self.ways: list[Callable[[], Spoiled]] = [
            *(self.cut, self.flipped, self.noise, self.deep, self.huge_number, self.not_finite),
            *(self.twice, self.surrogate, self.wrong_type, self.unknown, self.nul, self.no_object),
            *(self.content_type, self.encoding, self.missing, self.long_text, self.too_long),
            self.odd,
        ]

    def __iter__(self) -> Iterator[Spoiled]:
        while True:
            yield self.random.choice(self.ways)()

    # ---- what all are made of --------------------------------------------------------------------

    def route(self) -> str:
        return self.random.choice([*BODIES])

    def post(
        self, route: str, body: bytes, way: str, param: str | None = None, **how: Any
    ) -> Spoiled:
        path = route
        for name, public_id in self.objects.items():
            path = path.replace(name, public_id)
        data = request(f"POST {path} HTTP/1.1", key=self.key, body=body, **how)
        return Spoiled(way, data, param)

    def good(self) -> tuple[str, dict[str, Any]]:
        route = self.route()
        return route, json.loads(json.dumps(BODIES[route]))

    def spliced(self, value: bytes) -> tuple[str, bytes]:
        """A good body with one more value in it, as raw as it is."""
        route, body = self.good()
        raw = json.dumps(body).encode()
        return route, raw[:-1] + b', "more": ' + value + b"}"

    # ---- no JSON ---------------------------------------------------------------------------------

    def cut(self) -> Spoiled:
        route, body = self.good()
        raw = json.dumps(body).encode()
        return self.post(route, raw[: self.random.randrange(len(raw))], "cut off")

    def flipped(self) -> Spoiled:
        """A few bytes changed, until it is no JSON any more."""
        route, body = self.good()
        raw = bytearray(json.dumps(body).encode())
        while is_json(raw):
            at = self.random.randrange(len(raw))
            raw[at : at + self.random.randrange(4)] = self.random.randbytes(
                self.random.randrange(4)
            )
        return self.post(route, bytes(raw), "bytes changed")

    def noise(self) -> Spoiled:
        raw = self.random.randbytes(self.random.choice([1, 10, 1000, 100_000]))
        return self.post(self.route(), b"\xff" + raw, "random bytes")

    def deep(self) -> Spoiled:
        one = self.random.choice([b"[", b'{"a":', b'[{"b":'])
        return self.post(self.route(), one * DEPTH, "nested deeply")

    def not_finite(self) -> Spoiled:
        value = self.random.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e400"])
        return self.post(*self.spliced(value), "not finite")

    def huge_number(self) -> Spoiled:
        digits = self.random.choice([401, 5000, 50_000])
        return self.post(
            *self.spliced(b"-" * self.random.randrange(2) + b"9" * digits), "huge number"
        )

    def twice(self) -> Spoiled:
        return self.post(*self.spliced(b'{"a": 1, "a": 2}'), "a key twice")

    def surrogate(self) -> Spoiled:
        value = self.random.choice([b'"\\ud800"', b'"\\udfff\\ud800"', b'{"\\udabc": 1}'])
        return self.post(*self.spliced(value), "half a character")

    # ---- JSON, but not what the route takes ------------------------------------------------------

    def wrong_type(self) -> Spoiled:
        route, body = self.good()
        name = self.random.choice([*body])
        body[name] = self.random.choice([5.5, -1, [[]], [5.5], {"a": [1]}, 2**63, 10**399, [None]])
        if name == "temperature":
            body[name] = "hot"
        return self.post(route, json.dumps(body).encode(), "wrong type", name)

    def unknown(self) -> Spoiled:
        route, body = self.good()
        name = "x" + "".join(self.random.choices("abcdefgh_", k=self.random.randrange(1, 40)))
        return self.post(route, json.dumps({**body, name: 1}).encode(), "unknown field", name)

    def missing(self) -> Spoiled:
        route, body = self.good()
        if route == "/v1/conversations":
            return self.unknown()
        name = next(name for name in body if name in REQUIRED)
        del body[name]
        return self.post(route, json.dumps(body).encode(), "missing field", name)

    def nul(self) -> Spoiled:
        route, body = self.good()
        text = f"a{chr(0)}b"
        name = next(name for name in body if name in REQUIRED)
        body[name] = {
            "messages": [{"role": "user", "content": text}],
            "items": [{"role": "user", "content": text}],
            "metadata": {"a": text},
            "input": [text],
        }.get(name, text)
        return self.post(route, json.dumps(body).encode(), "NUL", name)

    def no_object(self) -> Spoiled:
        value = self.random.choice([[], [{}], "text", 5, None, True, 1.5])
        return self.post(self.route(), json.dumps(value).encode(), "no object")

    def long_text(self) -> Spoiled:
        letter = self.random.choice("aé字🌸 ")
        body = {"messages": [{"role": "user", "content": letter * 300_000}]}
        raw = json.dumps(body, ensure_ascii=False).encode()
        return self.post(CHAT, raw, "longer than the context", "messages")

    def too_long(self) -> Spoiled:
        return self.post(self.route(), b" " * (MOST_BYTES + 1), "over the cap")

    # ---- what goes round it ----------------------------------------------------------------------

    def content_type(self) -> Spoiled:
        kind = self.random.choice(
            [
                *(
                    "text/plain",
                    "application/json; charset=zlib",
                    "multipart/form-data; boundary=x",
                ),
                *("application/x-www-form-urlencoded", "application/json; charset=utf-7"),
                *("\xff", ";", "application/json; charset=utf-16; charset=utf-8"),
            ]
        )
        route, body = self.good()
        return self.post(route, json.dumps(body).encode(), "another content type", kind=kind)

    def encoding(self) -> Spoiled:
        route, body = self.good()
        coding = self.random.choice(["gzip", "br", "deflate", "identity, gzip", "x" * 200])
        spoiled = self.post(route, json.dumps(body).encode(), "compressed")
        head, blank, rest = spoiled.data.partition(b"\r\n\r\n")
        line = f"\r\nContent-Encoding: {coding}".encode()
        return Spoiled(spoiled.kind, head + line + blank + rest)

    def odd(self) -> Spoiled:
        """A line of the table of odd HTTP, on a connection that it may end."""
        odd = self.random.choice([odd for odd in TABLE if odd.status != 200])
        return Spoiled("odd HTTP", odd.as_bytes(self.key), ends_connection=True)


def is_json(raw: bytes | bytearray) -> bool:
    try:
        json.loads(raw.decode())
    except ValueError:
        return False
    return True
