"""A client that has left: its slot is free within two steps of the engine, its row says why."""

import asyncio
import threading
import time

import pytest

from conversations.models import Completion, Message
from llmapi.engine.runner import Runner
from llmapi.pending import pending
from tests.door.test_history import LONG, first_texts, row_after_the_end

CHAT = "/v1/chat/completions"
STEP_S = 0.15
"""Much longer than the way from a client to the engine."""


class SlowSteps:
    """Whose tokens each forward pass computes, and when it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[float, set[str]]] = []
        self._lock = threading.Lock()
        forward = Runner.forward

        def slowly(runner, chunks):
            with self._lock:
                ids = {chunk.sequence.request_id for chunk in chunks}
                self.steps.append((time.monotonic(), ids))
            time.sleep(STEP_S)
            return forward(runner, chunks)

        monkeypatch.setattr(Runner, "forward", slowly)

    def since(self, moment: float, public_id: str) -> int:
        """Steps with that request that began after this moment."""
        return sum(began > moment and public_id in ids for began, ids in self.steps)

    def have_had(self, public_id: str) -> bool:
        return any(public_id in ids for _, ids in self.steps)


@pytest.fixture
def steps(monkeypatch) -> SlowSteps:
    return SlowSteps(monkeypatch)


async def test_a_client_that_leaves_is_in_two_more_steps_at_most(client, steps) -> None:
    body = {**LONG, "n": 16}  # all places of the batch
    async with client.stream(CHAT, body) as leaving:
        public_id, _ = await first_texts(leaving, 3)
        waiting = await client.begin(CHAT, {**LONG, "max_tokens": 1})
        await asyncio.sleep(3 * STEP_S)
        left_at = time.monotonic()
        await leaving.disconnect()
    answer = await waiting.answer()
    assert answer.status == 200
    assert steps.since(left_at, public_id) <= 2
    assert steps.since(left_at, answer.json()["id"]) == 1, "its slot was free for the next"


async def test_a_request_whose_client_left_while_it_waited_is_in_no_step(client, steps) -> None:
    body = {**LONG, "n": 16, "max_tokens": 8}
    async with client.stream(CHAT, body) as busy:
        await busy.start()
        gone = await client.begin(CHAT, LONG)
        async with client.stream(CHAT, {**LONG, "max_tokens": 1}) as stays:
            await asyncio.sleep(2 * STEP_S)
            await gone.disconnect()
            await stays.start()
            events = [event async for event in stays.events()]
    assert events[-1] == "[DONE]", "whoever waited behind it had its turn"
    [row] = await ended_as("cancelled")
    assert row.completion_tokens == 0
    assert not steps.have_had(row.public_id)


async def ended_as(status: str) -> list[Completion]:
    for _ in range(500):
        if found := [row async for row in Completion.objects.filter(status=status)]:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"no row is {status}")


async def test_why_a_client_counts_as_gone_is_in_its_row(client) -> None:
    async with client.stream(CHAT, LONG) as call:
        public_id, text = await first_texts(call, 3)
        reason = "The client did not read its answer."
        await call.inbox.put({"type": "http.disconnect", "reason": reason})
        row = await row_after_the_end(public_id)
    assert (row.status, row.error) == ("cancelled", reason)
    kept = await Message.objects.aget(completion=row)
    assert kept.content.startswith(text)


async def test_who_leaves_leaves_its_place(client) -> None:
    for _ in range(3):
        async with client.stream(CHAT, LONG) as call:
            public_id, _ = await first_texts(call, 2)
        await row_after_the_end(public_id)
    for _ in range(100):
        if not len(pending):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("places are still taken")
