"""An engine that lives and does not get on is noticed, killed, and started again."""

import threading

import pytest
from asgiref.sync import sync_to_async

from llmapi.backends.watchdog import Watchdog
from llmapi.running import running
from llmapi.services import models
from tests.door.conftest import close_connections
from tests.door.standin import backend_on
from tests.door.test_faults import ready_within
from tests.door.test_history import first_texts, row_after_the_end

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def impatient(engine, transactional_db):
    """`impatient()`: a backend on `engine` that waits a second for its next word."""

    def start():
        running.reset()
        models.start([backend_on(engine, stall_timeout_s=1.0)], lambda line: None)
        models.wait_ready(60)

    yield start
    models.stop()
    close_connections()


async def test_a_wedged_engine_ends_its_requests_with_an_error_and_another_is_started(
    impatient, engine, asker, caplog
):
    engine.holds = True
    await sync_to_async(impatient)()
    async with asker.stream(CHAT, HELLO) as call:
        public_id, _ = await first_texts(call, 1)
        engine.is_wedged = True
        whole = await asker.begin(CHAT, HELLO)
        rest = [event async for event in call.events()]
        answer = await whole.answer()
    assert rest[-1] == "[DONE]"
    assert rest[-2]["error"]["code"] == "engine_lost"
    assert (answer.status, answer.error["code"]) == (503, "engine_lost")
    row = await row_after_the_end(public_id)
    assert (row.status, row.completion_tokens) == ("interrupted", 1)
    assert "LLMAPI_ENGINE_TIMEOUT_S" in caplog.text
    engine.is_wedged = engine.holds = False
    await ready_within(30)
    assert (await asker.post(CHAT, HELLO)).status == 200
    assert engine.lives >= 2


# ---- its judgement, at times of our choosing -----------------------------------------------------


class Owed:
    """A watchdog that allows ten seconds, and whether somebody waits."""

    def __init__(self) -> None:
        self.is_awaited = False
        self.watchdog = Watchdog(10, lambda: self.is_awaited, lambda: None)
        self.began = self.watchdog._since

    def is_stalled_after(self, seconds: float) -> bool:
        return self.watchdog.is_stalled(self.began + seconds)


def test_silence_while_somebody_waits_is_a_stall_when_the_time_is_over():
    owed = Owed()
    owed.is_awaited = True
    assert not owed.is_stalled_after(9.9)
    assert owed.is_stalled_after(10)


def test_silence_counts_from_when_somebody_began_to_wait():
    owed = Owed()
    assert not owed.is_stalled_after(3600)
    owed.is_awaited = True
    assert not owed.is_stalled_after(3609)
    assert owed.is_stalled_after(3611)


def test_every_word_begins_the_time_anew():
    owed = Owed()
    owed.is_awaited = True
    owed.watchdog.heard()
    owed.began = owed.watchdog._since
    assert not owed.is_stalled_after(9.9)


def test_it_barks_once():
    barked = threading.Semaphore(0)
    watchdog = Watchdog(0.01, lambda: True, barked.release)
    watchdog.start()
    assert barked.acquire(timeout=30)
    watchdog._thread.join(30)
    assert not watchdog._thread.is_alive()
    assert not barked.acquire(blocking=False)


def test_one_that_was_called_off_never_barks():
    barked = threading.Semaphore(0)
    watchdog = Watchdog(0.05, lambda: True, barked.release)
    watchdog.stop()
    watchdog.start()
    watchdog._thread.join(30)
    assert not barked.acquire(blocking=False)
