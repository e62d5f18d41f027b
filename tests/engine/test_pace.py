"""The pace learns what steps cost. Costs are simulated, so nothing here depends on the machine."""

import random
from collections.abc import Callable

import pytest

from llmapi.engine.pace import FLOOR, FORGOTTEN_AFTER, LEAST_STRETCH, MEASURE_EVERY, Pace

Cost = Callable[[int, int], float]


class Machine:
    """Takes as long for a step as it is told to."""

    def __init__(self, cost: Cost, stretch: float = 2.25, **options: float) -> None:
        self.cost = cost
        self.now = 0.0
        options = {"long_s": 1000.0} | options
        self.pace = Pace(stretch, clock=lambda: self.now, **options)

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


# ---- beside others -------------------------------------------------------------------------------


class Shared(Machine):
    """Steps with rows of several users, of whom one wants `least`."""

    def shared(
        self, least: int, users: int, wanted: int, waiting: int = 0
    ) -> tuple[int, int, float]:
        """One step; rows, prompt tokens and seconds of it."""
        self.pace.start()
        budget = self.pace.row_budget(least, users, beside_prompts=bool(waiting))
        rows, amount = min(budget, wanted), 0
        if waiting:
            amount = min(waiting, self.pace.shared_budget(rows, 512, beside=least))
        seconds = self.cost(rows, amount)
        self.now += seconds
        self.pace.finish(rows, amount)
        return rows, amount, seconds


def cpu(rows: int, prompt: int) -> float:
    return 0.0126 + 0.0018 * rows + 0.00077 * prompt


@pytest.mark.parametrize("least", [1, 3, 6])
def test_rows_of_others_stretch_a_step_as_far_as_wanted_and_not_farther(least: int) -> None:
    machine = Shared(cpu)
    steps = [machine.shared(least, 2, 32) for _ in range(60)]
    alone = cpu(least, 0)
    assert steps[0][0] == least, "first it is measured"
    typical = sorted(seconds for *_, seconds in steps)[30]
    assert 1.55 * alone <= typical <= 1.8 * alone


def test_beside_prompts_half_of_the_time_is_theirs() -> None:
    machine = Shared(cpu)
    for _ in range(8):
        machine.shared(1, 2, 32)
    machine.step(8, 100)  # what a prompt token costs
    machine.step(8)
    steps = [machine.shared(1, 2, 32, waiting=10_000) for _ in range(60)]
    rows, amounts, seconds = zip(*steps[10:], strict=True)
    extra_rows, extra_tokens = sorted(rows)[25] - 1, sorted(amounts)[25]
    assert 0.5 <= extra_rows * 0.0018 / (extra_tokens * 0.00077) <= 2
    assert sorted(seconds)[25] <= 1.8 * cpu(1, 0)


def test_every_user_has_as_many_rows_as_who_wants_least() -> None:
    machine = Shared(cpu)
    steps = [machine.shared(2, 10, 100) for _ in range(30)]
    assert sorted(rows for rows, *_ in steps)[15] == 20


def test_where_rows_cost_nothing_others_have_all_that_they_want() -> None:
    machine = Shared(lambda rows, prompt: 0.01)
    assert [machine.shared(1, 2, 32)[0] for _ in range(8)][-1] == 32


def test_what_rows_cost_is_forgotten_and_learned_anew() -> None:
    dear = True

    def cost(rows: int, prompt: int) -> float:
        return 0.01 * (rows if dear else 1)

    machine = Shared(cost)
    for _ in range(50):
        machine.shared(1, 2, 32)
    assert machine.shared(1, 2, 32)[0] == 2, "nobody has less than who wants least"
    dear = False
    for _ in range(FORGOTTEN_AFTER + 50):
        machine.shared(1, 2, 32)
    assert machine.shared(1, 2, 32)[0] == 32


def test_a_first_prompt_may_take_as_long_as_those_beside_it_bear() -> None:
    machine = Machine(cpu)
    for rows in (1, 31):
        for _ in range(5):
            machine.step(rows)
    for _ in range(5):
        machine.step(31, 200)
    wide = machine.pace.first_budget(1, 512, beside=31)
    narrow = machine.pace.first_budget(1, 512, beside=1)
    assert cpu(1, wide) == pytest.approx(2.25 * cpu(31, 0), rel=0.1)
    assert cpu(1, narrow) == pytest.approx(2.25 * cpu(1, 0), rel=0.1)


def test_a_long_step_is_stretched_hardly() -> None:
    machine = Machine(cpu, long_s=0.1)
    for _ in range(3):
        machine.step(31)
    times = [machine.step(31, 10_000)[1] for _ in range(30)]
    assert sorted(times)[15] == pytest.approx(0.1, rel=0.1)
    slow = Machine(lambda rows, prompt: 10 * cpu(rows, prompt), long_s=0.1)
    for _ in range(3):
        slow.step(31)
    times = [slow.step(31, 10_000)[1] for _ in range(30)]
    assert sorted(times)[15] == pytest.approx(LEAST_STRETCH * 10 * cpu(31, 0), rel=0.1)


def test_prompts_alone_share_short_steps_and_a_single_one_takes_all() -> None:
    machine = Machine(cpu, long_s=0.1)
    for _ in range(3):
        machine.step(31)
        machine.step(31, 100)
    assert machine.pace.prompt_budget(0, 512, is_only=True) == 512
    assert machine.pace.prompt_budget(0, 512) == pytest.approx(0.1 / 0.00077, rel=0.1)


def test_a_step_without_rows_is_never_empty() -> None:
    """There would be none after it that could teach anything."""
    fresh = Machine(cpu).pace
    assert fresh.prompt_budget(0, 512) > 0
    assert fresh.first_budget(0, 512, beside=3) > 0
    measured = Machine(cpu)
    measured.step(4)
    for _ in range(2 * MEASURE_EVERY):
        measured.step(4, 100)
        assert measured.pace.prompt_budget(0, 512) > 0
        assert measured.pace.first_budget(0, 512, beside=200) > 0
