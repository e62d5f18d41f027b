"""The client of the ledger, a process of its own: asks without end, writes down what it is told.

    python -m tests.chaos.client URL KEY LEDGER [--mixed N] [--long N] ...

It ends when its stdin closes, after the requests that are under way.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.ledger import LedgerWriter, digest

TURNS = 4
PAUSE_S = 0.5
"""Between two attempts while no server answers."""

SILENCE_S = 60.0
"""Who hears nothing for so long is not being answered."""

SETTLED_S = 2.5
"""What came so long before a stream broke has been flushed: a second, and what a machine with much
to do adds."""


class Silence(Exception):
    """Nothing but comments came."""


class Worker:
    """One request after the other: chats of several turns, and completions; streamed or not. With
    `words`, streamed chats of so many words, answered with as many or with `tokens`."""

    def __init__(
        self,
        url: str,
        key: str,
        ledger: LedgerWriter,
        name: str,
        seed: str,
        words: int,
        tokens: int | None,
    ) -> None:
        self.client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=SILENCE_S
        )
        self.ledger = ledger
        self.name = name
        self.chance = random.Random(f"{seed}/{name}")
        self.words = words
        self.tokens = tokens or words + 4
        self.number = 0
        self.turns: list[dict[str, str]] = []

    def run(self, stop: threading.Event) -> None:
        with self.client:
            while not stop.is_set():
                try:
                    answered = self.ask()
                except (httpx.ReadTimeout, Silence):
                    self.ledger.write("silence", "-")
                    answered = False
                except httpx.HTTPError:
                    answered = False
                if not answered:
                    stop.wait(PAUSE_S)

    def ask(self) -> bool:
        """One request; False if it was refused. Raises HTTPError if the server goes away."""
        self.number += 1
        said = f"{self.name} says number {self.number}. " + "word " * self.words
        kind = "chat" if self.words or self.chance.random() < 0.6 else "completion"
        streamed = bool(self.words) or self.chance.random() < 0.7
        body: dict[str, Any] = {"stream": streamed}
        if self.words:
            body |= {"max_tokens": self.tokens, "temperature": 0}
        else:
            body |= {
                "max_tokens": self.chance.randrange(5, 400),
                "seed": self.chance.randrange(10**6),
                "temperature": 1,
            }
        if kind == "chat":
            messages = [*self.turns, {"role": "user", "content": said}]
            body["messages"] = messages
            asked = digest([[m["role"], m["content"]] for m in messages])
            path = "/v1/chat/completions"
        else:
            body |= {"prompt": said, "template": "none"}
            asked, path = digest(said), "/v1/completions"
        with self.client.stream("POST", path, json=body) as response:
            request = response.headers.get("x-request-id", "")
            if response.status_code != 200:
                error = json.loads(response.read())["error"]
                facts = {"status": response.status_code, "code": error["code"]}
                self.ledger.write("refused", request, **facts)
                return False
            facts = {"kind": kind, "streamed": streamed, "said": said, "asked": asked}
            self.ledger.write("accepted", request, **facts)
            text = self.read(response, request, streamed)
        if text is None:
            return False
        if kind == "chat":
            answer = {"role": "assistant", "content": text}
            keep = bool(text) and not self.words and len(messages) < 2 * TURNS
            self.turns = [*messages, answer] if keep else []
        return True

    def read(self, response: httpx.Response, request: str, streamed: bool) -> str | None:
        """The text of an answer that came whole; else None, or HTTPError."""
        if not streamed:
            answer = json.loads(response.read())
            (choice,) = answer["choices"]
            text = choice["message"]["content"] if "message" in choice else choice["text"]
            self.ledger.write("finished", request, id=answer["id"], digest=digest(text))
            return text
        heard = Heard()
        try:
            for event in events(response):
                if event == "[DONE]":
                    heard.is_whole = heard.error is None
                    break
                if "error" in event:
                    heard.error = event["error"]["code"]
                    continue
                if not heard.public_id:
                    heard.public_id = event["id"]
                    self.ledger.write("named", request, id=heard.public_id)
                for choice in event["choices"]:
                    heard.add(
                        choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                    )
        finally:
            if heard.is_whole:
                facts = {"id": heard.public_id, "digest": digest(heard.text)}
                self.ledger.write("finished", request, **facts)
            else:
                facts = {"text": heard.text, "settled": heard.settled, "error": heard.error}
                self.ledger.write("broken", request, **facts)
        return heard.text if heard.is_whole else None


class Heard:
    """A stream as far as it has come."""

    def __init__(self) -> None:
        self.public_id = ""
        self.error: str | None = None
        self.is_whole = False
        self.pieces: list[tuple[float, str]] = []

    def add(self, piece: str) -> None:
        self.pieces.append((time.monotonic(), piece))

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    @property
    def settled(self) -> str:
        """What had come SETTLED_S ago."""
        until = time.monotonic() - SETTLED_S
        return "".join(piece for at, piece in self.pieces if at < until)


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
    parser.add_argument("--words", type=int, default=400, help="of each long one")
    parser.add_argument("--tokens", type=int, help="that answer it; else as many")
    options = parser.parse_args()
    ledger = LedgerWriter(options.ledger)
    stop = threading.Event()
    name = options.ledger.stem
    lengths = [0] * options.mixed + [options.words] * options.long
    workers = [
        Worker(
            *(options.url, options.key, ledger, f"{name}-{number}", options.seed),
            words,
            options.tokens,
        )
        for number, words in enumerate(lengths)
    ]
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    ledger.close()


if __name__ == "__main__":
    main()
