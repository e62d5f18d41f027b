"""What an engine has done since its start. Knows no torch."""

from bisect import bisect_left

from llmapi.engine.messages import BATCH_SIZES, Figures
from llmapi.engine.scheduler import Scheduler
from llmapi.engine.step import Step


class Workload:
    """Owned by the engine's loop, which adds each forward pass."""

    def __init__(self) -> None:
        self._steps = 0
        self._steps_s = 0.0
        self._prompt_tokens = 0
        self._drawn_tokens = 0
        self._batched = 0
        self._batch_sizes = [0] * (len(BATCH_SIZES) + 1)

    def add(self, step: Step, took_s: float) -> None:
        self._steps += 1
        self._steps_s += took_s
        self._prompt_tokens += step.prompt_tokens
        self._drawn_tokens += step.rows
        self._batched += len(step.chunks)
        self._batch_sizes[bisect_left(BATCH_SIZES, len(step.chunks))] += 1

    def figures(self, scheduler: Scheduler) -> Figures:
        """All of it, and how full the engine is at this moment."""
        blocks = scheduler.blocks
        return Figures(
            running=scheduler.running,
            waiting=scheduler.waiting,
            steps=self._steps,
            steps_s=self._steps_s,
            prompt_tokens=self._prompt_tokens,
            drawn_tokens=self._drawn_tokens,
            batched=self._batched,
            batch_sizes=tuple(self._batch_sizes),
            preemptions=scheduler.preemptions,
            begun_tokens=scheduler.begun_tokens,
            cached_tokens=scheduler.cached_tokens,
            cache_tokens=blocks.total * blocks.block_size,
            held_tokens=(blocks.total - blocks.available) * blocks.block_size,
            reusable_tokens=blocks.cached * blocks.block_size,
        )
