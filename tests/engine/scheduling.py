"""A scheduler without an engine, and what an engine would do with its steps. No torch."""

import itertools
from typing import Any

from llmapi.engine.blocks import BlockPool
from llmapi.engine.messages import SamplingParams
from llmapi.engine.scheduler import Scheduler
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Step


def sequence(
    user: str,
    prompt: int | list[int] = 4,
    max_tokens: int = 5,
    *,
    shared_tokens: int = 0,
    **params: Any,
) -> Sequence:
    """`prompt`: its tokens; or how many, and then no other sequence has the same."""
    tokens = list(prompt) if isinstance(prompt, list) else fresh(prompt)
    params = {"max_tokens": max_tokens} | params
    sampling = SamplingParams(**params)
    return Sequence("r", 0, user, len(tokens), tokens, sampling, shared_tokens=shared_tokens)


def fresh(count: int) -> list[int]:
    return [next(NUMBERS) for _ in range(count)]


NUMBERS = itertools.count(1)


def scheduler(
    *, blocks: int = 64, max_batch: int = 4, step_tokens: int = 16, **options: Any
) -> Scheduler:
    pool = BlockPool(blocks, 16)
    return Scheduler(pool, max_batch=max_batch, step_tokens=step_tokens, **options)


def compute(s: Scheduler, step: Step, *, drawn: int = 1) -> list[Sequence]:
    """What an engine does with a step; returns the sequences that are at their end."""
    s.check()
    for chunk in step.chunks:
        assert chunk.count > 0
        assert chunk.end <= len(chunk.sequence.blocks) * 16
    s.advance(step.chunks)
    ended = []
    for chunk in step.chunks:
        sequence = chunk.sequence
        if sequence.params is not None:
            s.prefixes.publish(sequence)
        if chunk.draws:
            sequence.tokens.append(drawn)
            if sequence.drawn == sequence.params.max_tokens:
                s.remove(sequence)
                ended.append(sequence)
    s.check()
    return ended


def run(s: Scheduler, *, most: int = 10_000) -> list[Step]:
    """Step until nobody is left."""
    steps = []
    while s.running or s.waiting:
        steps.append(s.schedule())
        assert steps[-1].chunks
        compute(s, steps[-1])
        assert len(steps) < most
    return steps


def until_preempted(s: Scheduler) -> Step:
    for _ in range(1000):
        step = s.schedule()
        if step.preempted:
            return step
        compute(s, step)
    raise AssertionError("nobody was preempted")


def running(s: Scheduler) -> list[Sequence]:
    return list(s._running)


def served(step: Step) -> list[str]:
    return [chunk.sequence.user for chunk in step.chunks]
