"""Forks on the real cache: what one writes is never seen by the other."""

from pathlib import Path

import pytest
import torch
from driving import Reference, make_engine, some_prompt

from llmapi.engine.blocks import BlockPool
from llmapi.engine.messages import SamplingParams
from llmapi.engine.runner import Runner
from llmapi.engine.scheduler import Scheduler
from llmapi.engine.sequence import Sequence


@pytest.fixture
def runner(tiny_dir: Path) -> Runner:
    return make_engine(tiny_dir, kv_cache_tokens=1024).runner


def compute(scheduler: Scheduler, runner: Runner) -> dict[Sequence, torch.Tensor]:
    step = scheduler.schedule()
    scheduler.check()
    runner.cache.copy_blocks(step.copies)
    result = runner.forward(step.chunks)
    scheduler.advance(step.chunks)
    drawing = [chunk.sequence for chunk in step.chunks if chunk.draws]
    for sequence in drawing:
        scheduler.prefixes.publish(sequence)
    return dict(zip(drawing, result.logits, strict=True))


def fork(scheduler: Scheduler, parent: Sequence, token: int) -> Sequence:
    tokens = [*parent.tokens, token]
    child = Sequence("r", 0, parent.user, parent.prompt_tokens, tokens, parent.params)
    scheduler.fork(parent, child)
    return child


@pytest.mark.parametrize("length", [31, 32, 33, 40])
def test_every_fork_sees_its_own_tokens_and_nobody_elses(
    runner: Runner, reference: Reference, length: int
) -> None:
    scheduler = Scheduler(BlockPool(64, 16), max_batch=8, step_tokens=64)
    prompt = some_prompt(length, length)
    params = SamplingParams(max_tokens=30)
    root = Sequence("r", 0, "u", length, list(prompt), params)
    scheduler.add(root, beams=4)
    compute(scheduler, runner)
    beams = [root]
    generator = torch.Generator().manual_seed(0)
    for turn in range(20):
        # Each beam has a random parent, as in a search: some go on twice, some not at all.
        parents = torch.randint(len(beams), (4,), generator=generator).tolist()
        survivors = [fork(scheduler, beams[p], 3 + 7 * turn + i) for i, p in enumerate(parents)]
        for beam in beams:
            scheduler.remove(beam)
        beams = survivors
        logits = compute(scheduler, runner)
        with torch.inference_mode():
            expected = reference.model(torch.tensor([beam.tokens for beam in beams])).logits
        for beam, row in zip(beams, expected[:, -1], strict=True):
            assert torch.allclose(logits[beam], row, atol=1e-4)
    for beam in beams:
        scheduler.remove(beam)
    scheduler.check()
    assert scheduler.blocks.available == 64


def test_copies_are_read_before_any_is_written(runner: Runner) -> None:
    cache = runner.cache
    for pool in (*cache._keys, *cache._values):
        pool.copy_(torch.randn(pool.shape))
    before = [pool.clone() for pool in (*cache._keys, *cache._values)]
    cache.copy_blocks([(1, 2), (2, 3), (5, 4)])
    heads = cache.shape.kv_heads
    for old, new in zip(before, (*cache._keys, *cache._values), strict=True):
        old, new = old.view(heads, cache.blocks, -1), new.view(heads, cache.blocks, -1)
        assert torch.equal(new[:, [2, 3, 4]], old[:, [1, 2, 5]])
        assert torch.equal(new[:, [0, 1, 5]], old[:, [0, 1, 5]])
        assert torch.equal(new[:, 6:], old[:, 6:])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_one_bad_number_in_one_layer_is_noticed(runner: Runner, bad: float) -> None:
    assert runner.cache.is_finite([1, 2, 3])
    runner.cache._values[-1][runner.cache.blocks + 2, 5] = bad
    assert not runner.cache.is_finite([1, 2, 3])
    assert runner.cache.is_finite([1, 3])
