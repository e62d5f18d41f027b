"""The pace learns what steps cost. Costs are simulated, so nothing here depends on the machine."""

import random
from collections.abc import Callable

import pytest

from llmapi.engine.pace import FLOOR, MEASURE_EVERY, Pace

Cost = Callable[[int, int], float]


class Machine:
    """Takes as long for a step as it is told to."""

    def __init__(self, cost: Cost, stretch: float = 2.25) -> None:
        self.cost = cost
        self.now = 0.0
        self.pace = Pace(stretch, clock=lambda: self.now)

    def step(self, rows: int, waiting: int = 0, most: int = 512) -> tuple[int, float]:
        """One step beside `waiting` prompt tokens; returns how many it took, and its seconds."""
        self.pace.start()
        amount = min(waiting, self.pace.prompt_budget(rows, most)) if waiting else 0
        seconds = self.cost(rows, amount)
        self.now += seconds
        self.pace.finish(rows, amount)
        return amount, seconds


def linear(rows: int, prompt: int) -> float:
    return 0.050 + 0.003 * rows + 0.0015 * prompt


def chunky(rows: int, prompt: int) -> float:
    """With a fixed cost for the chunk, as real kernels have."""
    return 0.018 + 0.003 * rows + (0.010 + 0.0008 * prompt if prompt else 0)


@pytest.mark.parametrize("cost", [linear, chunky])
@pytest.mark.parametrize("rows", [1, 5, 30])
def test_a_long_prompt_stretches_steps_as_far_as_wanted_and_not_farther(
    cost: Cost, rows: int
) -> None:
    machine = Machine(cost)
    idle = machine.step(rows)[1]
    left, times = 4000, []
    while left:
        amount, seconds = machine.step(rows, left)
        left -= amount
        times.append(seconds)
    assert sorted(times)[int(0.95 * len(times))] <= 2.5 * idle
    assert sorted(times)[len(times) // 2] >= 2.0 * idle


def test_without_running_streams_prompts_take_the_whole_step() -> None:
    machine = Machine(linear)
    assert machine.step(0, 4000) == (512, pytest.approx(linear(0, 512)))


def test_a_prompt_always_advances_however_dear_its_tokens_are() -> None:
    machine = Machine(lambda rows, prompt: 0.01 + prompt)
    amounts = [machine.step(3, 4000)[0] for _ in range(4 * MEASURE_EVERY)]
    assert amounts.count(0) <= 5  # steps that measure
    assert set(amounts[5:]) == {0, FLOOR}


def test_cheap_prompt_tokens_fill_the_step() -> None:
    machine = Machine(lambda rows, prompt: 0.01)
    machine.step(3)
    machine.step(3, 4000)
    assert machine.step(3, 4000)[0] == 512


def test_the_pace_follows_when_tokens_become_dearer_along_a_prompt() -> None:
    position = 0

    def cost(rows: int, prompt: int) -> float:
        return 0.05 + prompt * (0.0005 + position * 1e-7)

    machine = Machine(cost)
    machine.step(8)
    times = []
    while position < 20_000:
        amount, seconds = machine.step(8, 20_000 - position)
        position += amount
        times.append(seconds)
    assert max(times[5:]) <= 3 * 0.05


def test_a_pause_for_other_reasons_teaches_nothing_false() -> None:
    chance = random.Random(0)

    def cost(rows: int, prompt: int) -> float:
        return linear(rows, prompt) + (2.0 if chance.random() < 0.05 else 0)

    machine = Machine(cost)
    for _ in range(20):
        machine.step(4)
    amounts = [machine.step(4, 10_000)[0] for _ in range(200)]
    amounts = sorted(amount for amount in amounts if amount)
    ideal = 1.25 * linear(4, 0) / 0.0015
    assert amounts[20] >= 0.5 * ideal
    assert amounts[-20] <= 2 * ideal


def test_decoding_alone_is_measured_again_from_time_to_time() -> None:
    slow = False

    def cost(rows: int, prompt: int) -> float:
        return linear(rows, prompt) * (3 if slow else 1)

    machine = Machine(cost)
    machine.step(4)
    fast = [machine.step(4, 10_000)[0] for _ in range(20)][-1]
    slow = True
    amounts = [machine.step(4, 10_000)[0] for _ in range(6 * MEASURE_EVERY)]
    assert amounts.count(0) == 6 or amounts.count(0) == 5
    assert amounts[-1] == pytest.approx(fast, rel=0.1)
