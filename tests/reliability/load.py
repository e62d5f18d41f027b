"""Clients in a process of their own: loops that wait for their answers, and one that does not."""

import asyncio
import itertools
import multiprocessing
import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.load_client import Load
from benchmarks.prompts import chat
from benchmarks.stream import BadAnswer, Endpoint, Recording, exchange, read_answer, split_head
from tests.serve.asking import bearer
from tests.serve.server import ServerUnderTest

RETRY_AFTER = re.compile(rb"^retry-after: (\d+)\r?$", re.MULTILINE)


def served_model(server: ServerUnderTest) -> str:
    """What the server calls its model."""
    key = server.new_key("reader")
    models = httpx.get(f"{server.url}/v1/models", headers=bearer(key), timeout=60).json()
    name: str = models["data"][0]["id"]
    return name


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it; times in seconds, of `time.monotonic`."""

    began: float
    ended: float
    status: int
    """0: nothing that could be read, or not to its end."""

    said: str = ""
    """What was read where no answer was."""

    first_s: float | None = None
    tokens: int = 0
    retry_after: int | None = None

    @property
    def total_s(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Clients:
    """Who asks whom for what."""

    url: str
    model: str
    keys: Sequence[str]
    max_tokens: int
    first_number: int = 0
    """Of their prompts; no two share more than the template's opening."""

    def ask_in_turn(self) -> Callable[[], Coroutine[Any, Any, Asked]]:
        """Each call sends one request, with the next key."""
        numbers, keys = itertools.count(self.first_number), itertools.cycle(self.keys)
        load = Load(self.url, self.model, max_tokens=self.max_tokens)

        async def ask() -> Asked:
            endpoint = Endpoint.at(self.url, next(keys))
            return await asked(endpoint, load.body(chat(next(numbers))))

        return ask


async def asked(endpoint: Endpoint, body: dict[str, Any]) -> Asked:
    began, recording = time.monotonic(), Recording()
    with suppress(BadAnswer):  # what did come is looked at
        await exchange(endpoint, body, into=recording, timeout_s=600)
    ended = time.monotonic()
    head, _ = split_head(recording.pieces)
    status = int((head.split(None, 2)[1:2] or [b"0"])[0])
    if status != 200:
        found = RETRY_AFTER.search(head)
        said = b"".join(data for _, data in recording.pieces)[:300].decode(errors="replace")
        return Asked(began, ended, status, said, retry_after=int(found[1]) if found else None)
    try:
        answer = read_answer(recording)
    except BadAnswer as error:
        return Asked(began, ended, 0, str(error))
    tokens = int((answer.usage or {}).get("completion_tokens", 0))
    return Asked(began, ended, 200, first_s=(answer.arrivals or (None,))[0], tokens=tokens)


async def closed_loop(clients: Clients, count: int, seconds: float) -> list[Asked]:
    """`count` clients, each of which asks again when it is answered (and sleeps a second when it is
    refused), for so long."""
    ask, found = clients.ask_in_turn(), []
    until = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < until:
            found.append(await ask())
            if found[-1].status != 200:
                await asyncio.sleep(1)

    await asyncio.gather(*(one() for _ in range(count)))
    return found


async def open_loop(clients: Clients, rate: float, seconds: float) -> list[Asked]:
    """So many requests a second, whatever becomes of them; all are heard to their end."""
    ask, began = clients.ask_in_turn(), time.monotonic()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(began + number / rate - time.monotonic())
        tasks.append(asyncio.create_task(ask()))
    return await asyncio.gather(*tasks)


async def now_and_then(clients: Clients, requests: int, pause_s: float) -> list[Asked]:
    """One client that reads its answer, and asks again after `pause_s` on average: at no
    particular moment of the server's steps."""
    ask, found = clients.ask_in_turn(), []
    chance = random.Random(1)
    for _ in range(requests):
        await asyncio.sleep(chance.uniform(0, 2 * pause_s))
        found.append(await ask())
    return found


class InProcess:
    """A loop that runs in a process of its own, so that it costs the others no more than processor
    time."""

    def __init__(self, loop: Callable[..., Coroutine[Any, Any, list[Asked]]], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=run, args=(theirs, loop, args))
        self._process.start()
        theirs.close()

    def result(self) -> list[Asked]:
        """Waits for its end."""
        try:
            found: list[Asked] = self._pipe.recv()
        except EOFError:
            raise AssertionError("the clients' process ended without a word") from None
        self._process.join()
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def run(pipe: Any, loop: Callable[..., Coroutine[Any, Any, list[Asked]]], args: Any) -> None:
    pipe.send(asyncio.run(loop(*args)))
