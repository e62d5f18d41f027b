"""Many streams at once, on a thread of their own: what each was told, and how it ended."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.prompts import chat
from benchmarks.stream import (
    BadAnswer,
    Endpoint,
    Recording,
    body_pieces,
    events,
    exchange,
    split_head,
)
from tests.serve.server import until

PAUSE_S = 0.5
"""Before a client that was refused asks again."""


@dataclass(frozen=True, slots=True)
class Told:
    """One request as its client knows it. Times are those of `time.time()`.

    `status`: 0 if nothing came; `code`: of the error that refused or ended it. `is_whole`: it came
    to `[DONE]` without an error.
    """

    began: float
    ended: float
    status: int
    public_id: str | None
    text: str
    code: str | None
    is_whole: bool
    retry_after: int | None

    @property
    def is_dropped(self) -> bool:
        """It was accepted, and its connection broke without a word."""
        return self.status == 200 and not self.is_whole and self.code is None


def streamed(number: int, **parameters: Any) -> dict[str, Any]:
    """A chat that no other request repeats."""
    return {"messages": chat(number, sentences=2), "temperature": 0, "stream": True, **parameters}


class Crowd:
    """`count` clients, with these keys in turn, each of which asks again when it is answered, until
    `stop`; with `once`, each asks once."""

    def __init__(
        self,
        url: str,
        keys: Sequence[str],
        count: int,
        body: Callable[[int], dict[str, Any]],
        *,
        once: bool = False,
        timeout_s: float = 600,
    ) -> None:
        self.endpoints = itertools.cycle([Endpoint.at(url, key) for key in keys])
        self.count = count
        self.body = body
        self.once = once
        self.timeout_s = timeout_s
        self.told: list[Told] = []
        self._open: dict[int, Recording] = {}
        self._numbers = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), name="crowd")
        self._thread.start()

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[Told]:
        """Nobody asks again; returns when all are answered."""
        self._stopping.set()
        self._thread.join()
        return self.told

    def wait(self) -> list[Told]:
        """Of `once`: until all are answered."""
        self._thread.join()
        return self.told

    @property
    def streaming(self) -> int:
        """So many have begun to be answered, and are not done."""
        return sum(len(recording.pieces) > 1 for recording in [*self._open.values()])

    def all_stream(self, timeout_s: float = 120) -> None:
        until(lambda: self.streaming >= self.count, f"{self.count} streams have begun", timeout_s)

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.count):
                group.create_task(self._one(next(self.endpoints)))

    async def _one(self, endpoint: Endpoint) -> None:
        while not self._stopping.is_set():
            self._numbers += 1
            told = await self._ask(endpoint, self.body(self._numbers))
            self.told.append(told)
            if self.once:
                return
            if not told.is_whole:
                await asyncio.sleep(PAUSE_S)

    async def _ask(self, endpoint: Endpoint, body: dict[str, Any]) -> Told:
        recording = Recording()
        self._open[id(recording)] = recording
        began = time.time()
        with suppress(BadAnswer):  # what did come is looked at
            await exchange(endpoint, body, into=recording, timeout_s=self.timeout_s)
        del self._open[id(recording)]
        return read(recording, began)


def read(recording: Recording, began: float) -> Told:
    """What an exchange told, however far it came."""
    head, pieces = split_head(recording.pieces)
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    status = int((head.split(None, 2)[1:2] or [b"0"])[0])
    body = body_pieces(head, pieces)
    public_id, text, code, is_done = None, "", None, False
    if status == 200:
        for _, data in events(body):
            if data == "[DONE]":
                is_done = True
                break
            event = json.loads(data)
            if "error" in event:
                code = event["error"]["code"]
                continue
            public_id = event["id"]
            text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    elif status:
        code = json.loads(b"".join(data for _, data in body))["error"]["code"]
    return Told(
        began=began,
        ended=began + recording.pieces[-1][0] - recording.began if body else time.time(),
        status=status,
        public_id=public_id,
        text=text,
        code=code,
        is_whole=is_done and code is None,
        retry_after=int(headers[b"retry-after"]) if b"retry-after" in headers else None,
    )
