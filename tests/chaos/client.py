"""The client of the ledger, a process of its own: asks without end, writes down what it is told.

    python -m tests.chaos.client URL KEY LEDGER [--mixed N] [--long N] ...

It ends when its stdin closes, after the requests that are under way.
"""

import argparse
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.ledger import LedgerWriter, digest

TURNS = 4
PAUSE_S = 0.5
"""Between two attempts while no server answers."""

SILENCE_S = 60.0
"""Who hears nothing for so long is not being answered."""


class Silence(Exception):
    """Nothing but comments came."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: `said` is its prompt or new message, which no other request has; `key`, with
    which it is sent until it is answered."""

    path: str
    body: dict[str, Any]
    said: str
    key: str | None = None

    @property
    def kind(self) -> str:
        return "chat" if "messages" in self.body else "completion"

    @property
    def asked(self) -> str:
        messages = self.body.get("messages")
        return digest([[m["role"], m["content"]] for m in messages] if messages else self.said)


class Worker:
    """One request after the other, of all kinds: chats of several turns, and completions; streamed
    or not."""

    def __init__(self, client: httpx.Client, ledger: LedgerWriter, name: str, seed: str) -> None:
        self.client = client
        self.ledger = ledger
        self.name = name
        self.chance = random.Random(f"{seed}/{name}")
        self.number = 0
        self.turns: list[dict[str, str]] = []

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.number += 1
            request = self.next_request()
            while not self.is_answered(request) and not stop.wait(PAUSE_S):
                if request.key is None:
                    break

    def is_answered(self, request: Request) -> bool:
        """False: it was refused, or the server went away."""
        try:
            return self.send(request)
        except (httpx.ReadTimeout, Silence):
            self.ledger.write("silence", "-")
        except httpx.HTTPError:
            pass
        return False

    def next_request(self) -> Request:
        said = f"{self.name} says number {self.number}. "
        body: dict[str, Any] = {
            "stream": self.chance.random() < 0.7,
            "max_tokens": self.chance.randrange(5, 400),
            "seed": self.chance.randrange(10**6),
            "temperature": 1,
        }
        if self.chance.random() < 0.6:
            body["messages"] = [*self.turns, {"role": "user", "content": said}]
            return Request("/v1/chat/completions", body, said)
        body |= {"prompt": said, "template": "none"}
        return Request("/v1/completions", body, said)

    def send(self, request: Request) -> bool:
        """Raises HTTPError if the server goes away."""
        headers = {"Idempotency-Key": request.key} if request.key else {}
        with self.client.stream("POST", request.path, json=request.body, headers=headers) as answer:
            name = answer.headers.get("x-request-id", "")
            if answer.status_code != 200:
                error = json.loads(answer.read())["error"]
                facts = {"status": answer.status_code, "code": error["code"]}
                self.ledger.write("refused", name, **facts)
                return False
            if "idempotent-replayed" in answer.headers:
                heard = hear(answer, is_stream=request.body["stream"])
                if heard.is_whole:
                    facts = {"said": request.said, "digest": digest(heard.text)}
                    self.ledger.write("replayed", name, id=heard.public_id, **facts)
                return heard.is_whole
            facts = {"kind": request.kind, "said": request.said, "asked": request.asked}
            self.ledger.write("accepted", name, streamed=request.body["stream"], **facts)
            text = self.read(answer, name, is_stream=request.body["stream"])
        if text is not None and request.kind == "chat":
            self.go_on(request.body["messages"], text)
        return text is not None

    def go_on(self, messages: list[dict[str, str]], text: str) -> None:
        keep = bool(text) and len(messages) < 2 * TURNS
        self.turns = [*messages, {"role": "assistant", "content": text}] if keep else []

    def read(self, answer: httpx.Response, name: str, *, is_stream: bool) -> str | None:
        """The text of an answer that came whole; else None, or HTTPError."""
        heard = Heard(on_name=lambda public_id: self.ledger.write("named", name, id=public_id))
        try:
            hear(answer, heard, is_stream=is_stream)
        finally:
            if heard.is_whole:
                facts = {"id": heard.public_id, "digest": digest(heard.text)}
                self.ledger.write("finished", name, **facts)
            else:
                facts = {"text": heard.text, "ages": heard.ages, "error": heard.error}
                self.ledger.write("broken", name, **facts)
        return heard.text if heard.is_whole else None


class LongWorker(Worker):
    """Streamed chats of so many words, answered with as many or with `tokens`."""

    words: int
    tokens: int | None

    def next_request(self) -> Request:
        said = f"{self.name} says number {self.number}. " + "word " * self.words
        body = {
            "messages": [{"role": "user", "content": said}],
            "max_tokens": self.tokens or self.words + 4,
            "temperature": 0,
            "stream": True,
        }
        return Request("/v1/chat/completions", body, said)

    def go_on(self, messages: list[dict[str, str]], text: str) -> None:
        """Each chat is of its own."""


class KeyedWorker(Worker):
    """Completions, each with an idempotency key, and sent again until it is answered."""

    def next_request(self) -> Request:
        said = f"{self.name} says with a key number {self.number}. "
        body = {
            "prompt": said,
            "template": "none",
            "max_tokens": self.chance.randrange(5, 400),
            "seed": self.chance.randrange(10**6),
            "stream": self.chance.random() < 0.7,
        }
        return Request("/v1/completions", body, said, key=f"{self.name}-{self.number}")


class Heard:
    """An answer as far as it has come."""

    def __init__(self, on_name: Callable[[str], None] = lambda public_id: None) -> None:
        self.on_name = on_name
        self.public_id = ""
        self.error: str | None = None
        self.is_whole = False
        self.pieces: list[tuple[float, str]] = []

    def add(self, answer: dict[str, Any]) -> None:
        """A chunk, or a whole answer."""
        if not self.public_id:
            self.public_id = answer["id"]
            self.on_name(self.public_id)
        for choice in answer["choices"]:
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            self.pieces.append((time.monotonic(), said.get("content") or ""))

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    @property
    def ages(self) -> list[tuple[float, int]]:
        """How many seconds ago the text grew to so many characters."""
        now = time.monotonic()
        lengths = itertools.accumulate(len(piece) for _, piece in self.pieces)
        return [(now - at, length) for (at, _), length in zip(self.pieces, lengths, strict=True)]


def hear(answer: httpx.Response, heard: Heard | None = None, *, is_stream: bool) -> Heard:
    """Raises HTTPError, Silence; `heard` has what had come then."""
    heard = heard or Heard()
    if not is_stream:
        heard.add(json.loads(answer.read()))
        heard.is_whole = True
        return heard
    for event in events(answer):
        if event == "[DONE]":
            heard.is_whole = heard.error is None
            break
        if "error" in event:
            heard.error = event["error"]["code"]
        else:
            heard.add(event)
    return heard


def events(response: httpx.Response) -> Iterator[Any]:
    heard_at = time.monotonic()
    for line in response.iter_lines():
        if line.startswith("data: "):
            heard_at = time.monotonic()
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)
        elif time.monotonic() - heard_at > SILENCE_S:
            raise Silence


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--seed", default="0")
    parser.add_argument(
        "--mixed", type=int, default=4, help="who ask for short things of all kinds"
    )
    parser.add_argument("--long", type=int, default=0, help="who ask for long streams")
    parser.add_argument("--keyed", type=int, default=0, help="who send again with a key")
    parser.add_argument("--words", type=int, default=400, help="of each long one")
    parser.add_argument("--tokens", type=int, help="that answer it; else as many")
    options = parser.parse_args()
    ledger = LedgerWriter(options.ledger)
    stop = threading.Event()
    LongWorker.words, LongWorker.tokens = options.words, options.tokens
    kinds = [Worker] * options.mixed + [LongWorker] * options.long + [KeyedWorker] * options.keyed
    client = httpx.Client(
        base_url=options.url,
        headers={"Authorization": f"Bearer {options.key}"},
        timeout=SILENCE_S,
        limits=httpx.Limits(max_connections=None),
    )
    name = options.ledger.stem
    workers = [
        kind(client, ledger, f"{name}-{number}", options.seed) for number, kind in enumerate(kinds)
    ]
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    client.close()
    ledger.close()


if __name__ == "__main__":
    main()
