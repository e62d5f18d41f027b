"""Requests as clients send them: bodies, streams that are read bit by bit, curl commands."""

import contextlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "Hello"}]
TIMEOUT = httpx.Timeout(60)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def chat(max_tokens: int, text: str = "Hello", **parameters: Any) -> dict[str, Any]:
    """A chat whose answer is as long as `max_tokens`, and always the same."""
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "max_tokens": max_tokens, **parameters}


def post(url: str, key: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(url + path, json=body, headers=bearer(key), timeout=TIMEOUT)


class Stream:
    """A streamed chat: what has come so far, and how it ended."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.events = response.iter_lines()
        self.id = ""
        self.text = ""
        self.error: dict[str, Any] | None = None
        self.is_done = False

    def read(self, pieces: int | None = None) -> None:
        """Read so many pieces of text; None: to the end of the stream."""
        seen = 0
        for line in self.events:
            if not line.startswith("data: "):
                continue
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                self.is_done = True
                continue
            event = json.loads(data)
            if "error" in event:
                self.error = event["error"]
                continue
            self.id = event["id"]
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                self.text += piece
                seen += bool(piece)
            if seen == pieces:
                return


@contextlib.contextmanager
def streaming(url: str, key: str, body: dict[str, Any]) -> Iterator[Stream]:
    """A streamed chat that has begun: one piece of its text is read."""
    with httpx.stream(
        "POST", url + CHAT, json={**body, "stream": True}, headers=bearer(key), timeout=TIMEOUT
    ) as response:
        assert response.status_code == 200, response.read()
        stream = Stream(response)
        stream.read(1)
        yield stream


def run_curl(command: str) -> Any:
    """The JSON that a curl command prints, run by a shell; by httpx where there is no curl."""
    if shutil.which("curl"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    curl, url, *rest = shlex.split(command)
    assert curl == "curl"
    options = list(zip(rest[::2], rest[1::2], strict=True))
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    (data,) = (value for name, value in options if name == "-d")
    return httpx.post(url, content=data.encode(), headers=headers, timeout=TIMEOUT).json()


def request_bytes(url: str, path: str, key: str, body: bytes, method: str = "POST") -> bytes:
    """A whole HTTP/1.1 request, for tests that write to a socket themselves."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {urlsplit(url).netloc}",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
