"""The client of the ledger, a process of its own: asks without end, writes down what it is told.

    python -m tests.chaos.client URL KEY LEDGER [--workers N] [--seed S] [--long WORDS]

It ends when its stdin closes, after the requests that are under way.
"""

import argparse
import json
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.ledger import LedgerWriter, digest

TURNS = 4
PAUSE_S = 0.5
"""Between two attempts while no server answers."""


class Worker:
    """One request after the other: chats of several turns, and completions; streamed or not."""

    def __init__(
        self, url: str, key: str, ledger: LedgerWriter, name: str, seed: str, long: int
    ) -> None:
        self.client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        self.ledger = ledger
        self.name = name
        self.chance = random.Random(f"{seed}/{name}")
        self.long = long
        self.number = 0
        self.turns: list[dict[str, str]] = []

    def run(self, stop: threading.Event) -> None:
        with self.client:
            while not stop.is_set():
                try:
                    answered = self.ask()
                except httpx.HTTPError:
                    answered = False
                if not answered:
                    stop.wait(PAUSE_S)

    def ask(self) -> bool:
        """One request; False if it was refused. Raises HTTPError if the server goes away."""
        self.number += 1
        said = f"{self.name} says number {self.number}. " + "word " * self.long
        kind = "chat" if self.long or self.chance.random() < 0.6 else "completion"
        streamed = bool(self.long) or self.chance.random() < 0.7
        body: dict[str, Any] = {"stream": streamed}
        if not self.long:
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
            keep = bool(text) and not self.long and len(messages) < 2 * TURNS
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
        public_id, text, is_whole = "", "", False
        try:
            for event in events(response):
                if event == "[DONE]":
                    is_whole = True
                    break
                if "error" in event:
                    break
                if not public_id:
                    public_id = event["id"]
                    self.ledger.write("named", request, id=public_id)
                for choice in event["choices"]:
                    text += (
                        choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                    )
        finally:
            if is_whole:
                self.ledger.write("finished", request, id=public_id, digest=digest(text))
            else:
                self.ledger.write("broken", request, text=text)
        return text if is_whole else None


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--long", type=int, default=0, help="chats of so many words, streamed")
    options = parser.parse_args()
    ledger = LedgerWriter(options.ledger)
    stop = threading.Event()
    name = options.ledger.stem
    workers = [
        Worker(options.url, options.key, ledger, f"{name}-{number}", options.seed, options.long)
        for number in range(options.workers)
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
