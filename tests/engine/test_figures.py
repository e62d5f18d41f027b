"""What an engine tells of how it does: sums that agree with what it did."""

import logging
import multiprocessing
import pickle
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from driving import Told, ask, drive, embed, make_engine, some_prompt

from llmapi.engine.engine import Engine
from llmapi.engine.messages import BATCH_SIZES, Figures, LogLine, StepOutput
from llmapi.engine.worker import Inbox, Outbox, OutboxLog, serve


def test_the_sums_are_what_the_steps_computed(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, step_tokens=256)
    requests = [ask(f"r{i}", some_prompt(i, 20), max_tokens=8) for i in range(5)]
    told = drive(engine, *requests, embed("e", some_prompt(9, 30)))
    figures = engine.figures()
    assert figures.steps == len([step for step in told.steps if step.batch_tokens])
    assert figures.prompt_tokens + figures.drawn_tokens == sum(s.batch_tokens for s in told.steps)
    assert figures.prompt_tokens == 5 * 20 + 30
    drawn = sum(finish.completion_tokens for finish in told.finished.values())
    assert figures.drawn_tokens == drawn - 5, "the last token of each is drawn and not computed"
    assert sum(figures.batch_sizes) == figures.steps
    assert figures.batched >= figures.drawn_tokens + 6, "each prompt takes a pass, or several"
    assert figures.batch_sizes[BATCH_SIZES.index(8)] > 0
    assert figures.steps_s > 0
    assert figures.begun_tokens == 5 * 20 + 30
    assert figures.cached_tokens == 0
    assert (figures.running, figures.waiting, figures.held_tokens) == (0, 0, 0)


def test_what_was_found_in_the_cache_is_counted_and_what_it_keeps(engine: Engine) -> None:
    first = drive(engine, ask("a", some_prompt(1, 100), max_tokens=2))
    again = drive(engine, ask("b", some_prompt(1, 100), max_tokens=2))
    assert first.finished["a", 0].cached_tokens == 0
    figures = engine.figures()
    assert figures.cached_tokens == again.finished["b", 0].cached_tokens > 0
    assert figures.begun_tokens == 200
    assert figures.cached_tokens <= figures.reusable_tokens <= figures.cache_tokens


def test_running_and_waiting_are_of_the_moment(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, max_batch=2, step_tokens=64)
    told = Told()
    for index in range(5):
        engine.add(ask(f"r{index}", some_prompt(index, 10), max_tokens=30))
    told.hear(engine.step())
    figures = engine.figures()
    assert (figures.running, figures.waiting) == (2, 3)
    assert figures.held_tokens >= 2 * 10
    for index in range(5):
        engine.abort(f"r{index}")
    figures = engine.figures()
    assert (figures.running, figures.waiting, figures.held_tokens) == (0, 0, 0)


def test_who_had_to_yield_is_counted_and_its_prompt_only_once(tiny_dir: Path) -> None:
    engine = make_engine(tiny_dir, kv_cache_tokens=128)
    drive(engine, *(ask(f"r{i}", some_prompt(i, 20), max_tokens=50) for i in range(6)))
    figures = engine.figures()
    assert figures.preemptions > 0
    assert figures.begun_tokens == 6 * 20
    assert figures.prompt_tokens > 6 * 20, "what was given back is computed again"


def test_an_engine_that_sleeps_has_told_that_it_is_empty(engine: Engine) -> None:
    """Also after its only client has left, which makes no step."""
    ours, theirs = multiprocessing.Pipe()
    inbox, outbox = Inbox(theirs, on_close=lambda: None), Outbox(theirs)
    thread = threading.Thread(target=serve, args=(engine, inbox, outbox), daemon=True)
    thread.start()
    assert heard(ours)[-1].running == 0, "before the first request"
    ours.send(ask("a", some_prompt(1, 10), max_tokens=5))
    figures = heard(ours, until_steps=5)
    assert figures[-1].running == 0
    assert figures[-1].steps == 5
    ours.close()
    thread.join(10)
    outbox.close()


def heard(conn: Connection, until_steps: int = 0) -> list[Figures]:
    """The figures until the engine has made so many steps and sleeps."""
    figures = []
    while True:
        assert conn.poll(30)
        message = conn.recv()
        if isinstance(message, Figures):
            figures.append(message)
            if message.steps >= until_steps and not message.running:
                return figures
        else:
            assert isinstance(message, StepOutput)


def test_a_log_line_crosses_the_pipe_with_its_traceback() -> None:
    ours, theirs = multiprocessing.Pipe()
    outbox = Outbox(theirs)
    logger = logging.Logger("llmapi.engine.engine")
    logger.addHandler(OutboxLog(outbox))
    try:
        raise RuntimeError("out of memory")
    except RuntimeError:
        logger.exception("A forward pass over %d sequences failed", 3)
    outbox.close()
    line = ours.recv()
    assert isinstance(line, LogLine)
    assert (line.level, line.logger) == (logging.ERROR, "llmapi.engine.engine")
    assert line.text.startswith("A forward pass over 3 sequences failed\nTraceback")
    assert line.text.endswith("RuntimeError: out of memory")


def test_figures_are_small() -> None:
    figures = Figures(*[2**40] * 7, tuple([2**40] * (len(BATCH_SIZES) + 1)), *[2**40] * 6)
    assert len(pickle.dumps(figures)) < 600
