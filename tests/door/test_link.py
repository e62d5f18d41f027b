"""The pipe's web end: engines that die again and again, and those that do not want to."""

import multiprocessing
import re
import signal
import threading
import time

from llmapi.backends import link as link_module
from llmapi.backends.link import EngineLink
from llmapi.engine.config import EngineConfig
from llmapi.engine.messages import LoadFailed, Ready, StepOutput
from tests.door.standin import model_info

CONFIG = EngineConfig("base", "cache")
READY = Ready(model_info())


class Engines:
    """Gives `launch` to a link: each engine says `words` and dies; the last one lives on."""

    def __init__(self, deaths: int, *words: object) -> None:
        self.deaths = deaths
        self.words = words
        self.lives = 0
        self.lives_on = threading.Event()

    def launch(self, theirs, config) -> threading.Thread:
        self.lives += 1
        thread = threading.Thread(target=self.live, args=(theirs, self.lives), daemon=True)
        thread.start()
        return thread

    def live(self, theirs, number: int) -> None:
        for word in self.words:
            theirs.send(word)
        if number > self.deaths:
            self.lives_on.set()
            theirs.poll(None)  # until the other end closes
        theirs.close()


def linked(launch) -> tuple[EngineLink, list]:
    """A link that is started, and the (sentence, whether it is tried again) of every loss."""
    losses = []
    link = EngineLink(CONFIG, launch, lambda message: None, lambda *loss: losses.append(loss))
    link.start()
    return link, losses


def pauses(caplog) -> list[float]:
    return [float(found) for found in re.findall(r"again in ([\d.]+) s", caplog.text)]


def test_an_engine_that_dies_again_and_again_is_started_ever_more_slowly(monkeypatch, caplog):
    monkeypatch.setattr(link_module, "RESTART_DELAY_S", 0.1)
    monkeypatch.setattr(link_module, "LONGEST_RESTART_DELAY_S", 0.4)
    engines = Engines(4, READY)
    link, losses = linked(engines.launch)
    assert engines.lives_on.wait(60)
    link.stop()
    assert pauses(caplog) == [0.1, 0.2, 0.4, 0.4]
    assert [again for _, again in losses] == [True, True, True, True, False]


def test_after_a_long_life_an_engine_is_started_again_at_once(monkeypatch, caplog):
    monkeypatch.setattr(link_module, "RESTART_DELAY_S", 0.1)
    monkeypatch.setattr(link_module, "LONG_LIFE_S", 0.0)
    engines = Engines(3, READY)
    link, _ = linked(engines.launch)
    assert engines.lives_on.wait(60)
    link.stop()
    assert pauses(caplog) == [0.1, 0.1, 0.1]


def test_a_model_that_never_loaded_is_not_tried_again_and_one_that_did_is(monkeypatch):
    monkeypatch.setattr(link_module, "RESTART_DELAY_S", 0.01)
    never = Engines(9, LoadFailed("It has no weights."))
    link, losses = linked(never.launch)
    link._supervisor.join(30)
    assert losses == [("It has no weights.", False)]
    assert never.lives == 1
    once = Engines(1, READY, LoadFailed("There is no memory now."))
    link, losses = linked(once.launch)
    assert once.lives_on.wait(60)
    link.stop()
    assert losses[0] == ("There is no memory now.", True)


def ignore_everything(ready, pipe) -> None:
    """An engine that hears neither signals nor its pipe; it says that it is ready and hangs up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(ready)
    pipe.close()
    time.sleep(600)


def test_who_waits_hears_of_a_loss_before_the_process_that_will_not_end_is_killed():
    alive_when_told, made = [], []

    def launch(theirs, config):
        process = multiprocessing.get_context("spawn").Process(
            target=ignore_everything, args=(LoadFailed("It broke."), theirs)
        )
        process.start()
        theirs.close()
        made.append(process)
        return process

    def on_lost(sentence, again):
        alive_when_told.append(made[0].is_alive())

    link = EngineLink(CONFIG, launch, lambda message: None, on_lost)
    link.start()
    link._supervisor.join(60)
    assert alive_when_told == [True]
    assert made[0].exitcode == -signal.SIGKILL


def test_a_message_that_cannot_be_taken_in_ends_that_engine_and_not_the_link(monkeypatch):
    monkeypatch.setattr(link_module, "RESTART_DELAY_S", 0.01)
    engines, taken = Engines(0, READY, StepOutput((), 1, 1, 0, 1)), threading.Event()

    def on_message(message):
        if isinstance(message, StepOutput) and engines.lives == 1:
            raise RuntimeError("It makes no sense.")
        if isinstance(message, StepOutput):
            taken.set()

    losses = []
    link = EngineLink(CONFIG, engines.launch, on_message, lambda *loss: losses.append(loss))
    link.start()
    assert taken.wait(30)
    link.stop()
    assert losses[0] == (
        "The engine's message could not be taken in: It makes no sense.",
        True,
    )
