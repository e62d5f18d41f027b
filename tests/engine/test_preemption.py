"""Who has to yield goes on later exactly where it was."""

from pathlib import Path

import pytest
import torch
from driving import Reference, Told, ask, drive, embed, make_engine, some_prompt

from llmapi.engine.engine import Engine
from llmapi.engine.messages import GenerateRequest
from llmapi.engine.sequence import Sequence


@pytest.fixture
def small(tiny_dir: Path) -> Engine:
    """Room for 128 tokens."""
    return make_engine(tiny_dir, kv_cache_tokens=128)


def until_preempted(engine: Engine, told: Told) -> list[Sequence]:
    """Step until somebody has to yield."""
    seen: list[Sequence] = []
    put_back = engine._scheduler._waiting.put_back
    engine._scheduler._waiting.put_back = lambda s: (seen.append(s), put_back(s))[1]
    while not seen:
        assert engine.has_work
        told.hear(engine.step())
        engine._scheduler.check()
    engine._scheduler._waiting.put_back = put_back
    return seen


def test_preempted_texts_equal_those_alone_greedy_and_seeded(
    tiny_dir: Path, small: Engine, reference: Reference
) -> None:
    def requests() -> list[GenerateRequest]:
        sampled = {"do_sample": True, "seed": 3, "top_p": 0.95, "repetition_penalty": 1.2}
        return [
            ask(f"r{i}", some_prompt(i, 20), max_tokens=50, **(sampled if i % 2 else {}))
            for i in range(6)
        ]

    told = Told()
    for request in requests():
        small.add(request)
    preempted = until_preempted(small, told)
    drive(small, told=told)
    assert preempted
    alone = make_engine(tiny_dir)
    for request in requests():
        expected = drive(alone, request)
        choice = (request.request_id, 0)
        assert told.text(*choice) == expected.text(*choice)
        drawn = expected.finished[choice].completion_tokens
        assert told.finished[choice].completion_tokens == drawn


def test_a_preempted_embedding_is_computed_again_from_its_beginning(
    small: Engine, reference: Reference
) -> None:
    small._scheduler._dealer._step_tokens = 3  # so that it is in the middle when the others grow
    for index in range(2):
        small.add(ask(f"r{index}", some_prompt(index, 3), max_tokens=45, user="modest"))
    long = some_prompt(9, 60)
    small.add(embed("e", long, user="greedy"))
    told = Told()
    assert [s.request_id for s in until_preempted(small, told)] == ["e"]
    drive(small, told=told)
    assert torch.allclose(told.vectors["e", 0], reference.vector(long), atol=1e-5)
    assert not small._embedder._sums


def test_abort_of_a_preempted_request_forgets_it(small: Engine) -> None:
    for index in range(4):
        small.add(ask(f"r{index}", some_prompt(index, 20), max_tokens=60))
    told = Told()
    (preempted, *_) = until_preempted(small, told)
    small.abort(preempted.request_id)
    assert preempted not in small._scheduler._waiting
    assert preempted not in small._sampler._penalties
    drive(small, told=told)
    assert (preempted.request_id, 0) not in told.finished
    assert len(told.finished) == 3
    assert small.free_blocks == 8


def test_a_failing_forward_pass_leaves_the_preempted_alone(
    small: Engine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        small.add(ask(f"r{index}", some_prompt(index, 20), max_tokens=60))
    told = Told()
    waiting = {s.request_id for s in until_preempted(small, told)}
    waiting |= {s.request_id for s in small._scheduler._waiting}
    with monkeypatch.context() as broken:
        broken.setattr(small.runner.network, "forward", lambda *args: 1 / 0)
        told.hear(small.step())
    drive(small, told=told)
    ended = {name for name, _ in told.finished}
    assert ended >= waiting
    assert ended | set(told.failed) == {f"r{i}" for i in range(4)}
    for name in ended:
        prompt = some_prompt(int(name[1:]), 20)
        assert told.text(name) == reference.continue_text(prompt, 60)[0]
    assert small.free_blocks == 8
