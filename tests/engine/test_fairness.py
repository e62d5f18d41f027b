"""One user beside another who wants much more: places, turns, and what it waits for. No torch; what
steps cost is made up."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from scheduling import compute, fresh, running, scheduler, sequence, served

from llmapi.engine.pace import Pace
from llmapi.engine.scheduler import Scheduler
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Step

Cost = Callable[[int, int], float]


def small_cpu(rows: int, prompt: int) -> float:
    """As the embedded model in float32 on two cores, in seconds."""
    return 0.0126 + 0.0018 * rows + 0.00077 * prompt


def quantised_cpu(rows: int, prompt: int) -> float:
    return 0.0040 + 0.00075 * rows + 0.00035 * prompt


def gpu(rows: int, prompt: int) -> float:
    """Another row costs next to nothing."""
    return 0.0080 + 0.00005 * rows + 0.00002 * prompt


@dataclass
class Machine:
    """A scheduler whose steps take as long as they cost."""

    cost: Cost
    now: float = 0.0
    options: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = {"blocks": 4096, "max_batch": 32, "step_tokens": 512} | self.options
        self.pace = Pace(2.25, clock=lambda: self.now)
        self.scheduler: Scheduler = scheduler(pace=self.pace, **options)

    def step(self) -> tuple[Step, list[Sequence]]:
        """One step, and who got a token."""
        self.pace.start()
        step = self.scheduler.schedule()
        assert step.chunks
        assert step.rows <= self.scheduler._max_batch
        self.now += self.cost(step.rows, step.prompt_tokens)
        self.scheduler.advance(step.chunks)
        drawn = [chunk.sequence for chunk in step.chunks if chunk.draws]
        for one in drawn:
            one.tokens.append(1)
            if is_done(one):
                self.scheduler.remove(one)
        self.pace.finish(step.rows, step.prompt_tokens)
        return step, drawn


def is_done(one: Sequence) -> bool:
    return one.drawn == one.params.max_tokens


class Crowd:
    """A user with so many requests in flight: what has ended is asked again."""

    def __init__(self, machine: Machine, count: int, prompt: int, answer: int) -> None:
        self.machine, self.prompt, self.answer = machine, prompt, answer
        self.tokens = 0
        for _ in range(count):
            self.ask()

    def ask(self) -> None:
        self.machine.scheduler.add(sequence("greedy", fresh(self.prompt), self.answer))

    def step(self) -> None:
        for one in self.machine.step()[1]:
            if one.user == "greedy":
                self.tokens += 1
                if is_done(one):
                    self.ask()


@dataclass(frozen=True)
class Wait:
    """Seconds from when a request came."""

    first_s: float
    total_s: float


def waits(crowd: Crowd, prompt: int, answer: int, requests: int = 12) -> Iterator[Wait]:
    """Of each request of a modest user, who pauses between them."""
    chance, machine = random.Random(1), crowd.machine
    for _ in range(requests):
        came = machine.now + chance.uniform(0, 1)
        while machine.scheduler.running and machine.now < came:
            crowd.step()  # it comes in the last of these, and is heard at its end
        machine.now = max(machine.now, came)
        mine, first_at = sequence("modest", fresh(prompt), answer), 0.0
        machine.scheduler.add(mine)
        while mine.drawn < answer:
            crowd.step()
            if mine.drawn == 1:
                first_at = first_at or machine.now
        yield Wait(first_at - came, machine.now - came)


def settled(cost: Cost, prompt: int, answer: int) -> tuple[Crowd, float]:
    """A hundred requests of one user, and what their longest step took after the beginning."""
    crowd, longest = Crowd(Machine(cost), 100, prompt, answer), 0.0
    while crowd.machine.now < 3:
        before = crowd.machine.now
        crowd.step()
        if before > 1:
            longest = max(longest, crowd.machine.now - before)
    return crowd, longest


@pytest.mark.parametrize("cost", [small_cpu, quantised_cpu, gpu])
@pytest.mark.parametrize(
    ("modest", "greedy"),
    [
        ((111, 64), (111, 64)),
        ((111, 64), (111, 400)),
        ((900, 64), (111, 64)),
        ((111, 64), (900, 64)),
        ((900, 64), (900, 64)),
    ],
)
def test_a_hundred_of_one_user_do_not_double_what_another_waits(cost, modest, greedy) -> None:
    alone = list(waits(Crowd(Machine(cost), 0, 1, 1), *modest))
    crowd, step_s = settled(cost, *greedy)
    beside = list(waits(crowd, *modest))
    totals = sorted(wait.total_s for wait in beside)
    assert totals[-2] <= 2 * max(wait.total_s for wait in alone)
    # The first token waits besides for the end of the step in which the request came.
    firsts = sorted(wait.first_s for wait in beside)
    assert firsts[len(firsts) // 2] <= 2 * max(wait.first_s for wait in alone) + step_s


def test_the_greedy_one_goes_on_meanwhile() -> None:
    crowd, _ = settled(small_cpu, 111, 64)
    began, before = crowd.machine.now, crowd.tokens
    for _ in waits(crowd, 111, 64):
        pass
    rate = (crowd.tokens - before) / (crowd.machine.now - began)
    assert rate > 100  # alone it has 280 tokens a second


def test_users_who_want_the_same_lose_nothing_by_sharing() -> None:
    """Sixteen with two each: every step has them all."""
    machine = Machine(small_cpu)
    for number in range(32):
        machine.scheduler.add(sequence(f"user {number % 16}", max_tokens=60))
    rows = []
    while machine.scheduler.running or machine.scheduler.waiting:
        step, _ = machine.step()
        rows.append(step.rows)
    # But for the step or two that measure what two rows cost alone.
    assert Counter(rows)[32] >= 55


def test_where_more_rows_cost_nothing_none_is_left_out() -> None:
    machine = Machine(gpu)
    machine.scheduler.add(sequence("modest", max_tokens=200))
    for _ in range(20):
        machine.scheduler.add(sequence("greedy", max_tokens=200))
    rows = [machine.step()[0].rows for _ in range(150)]
    assert rows[-100:] == [21] * 100


# ---- places --------------------------------------------------------------------------------------


def full_batch(**options: int) -> Scheduler:
    """Four places, all taken by one user."""
    s = scheduler(max_batch=4, **options)
    for _ in range(100):
        s.add(sequence("greedy", max_tokens=200))
    compute(s, s.schedule())
    assert s.running == 4
    return s


def test_a_newcomer_has_a_place_at_once_though_all_are_taken() -> None:
    s = full_batch()
    s.add(modest := sequence("modest"))
    assert modest in [chunk.sequence for chunk in s.schedule().chunks]
    assert s.running == 5


def test_beyond_the_batch_there_are_places_for_those_below_their_share_alone() -> None:
    s = full_batch()
    for _ in range(9):
        s.add(sequence("also greedy", max_tokens=200))
    compute(s, s.schedule())
    assert Counter(q.user for q in running(s)) == {"greedy": 4, "also greedy": 2}
    for number in range(9):
        s.add(sequence(f"modest {number}"))
    compute(s, s.schedule())
    assert s.running == 8, "there are twice as many places, and no more"


def test_no_step_has_more_rows_than_the_batch_and_all_have_their_turn() -> None:
    s = full_batch()
    for number in range(3):
        s.add(sequence(f"modest {number}", max_tokens=200))
    drawn: Counter[Sequence] = Counter()
    for _ in range(60):
        step = s.schedule()
        assert step.rows <= 4
        drawn.update(chunk.sequence for chunk in step.chunks if chunk.draws)
        compute(s, step)
    by_user = Counter()
    for one, count in drawn.items():
        by_user[one.user] += count
    assert min(by_user.values()) >= 55, "each user has one row in every step"
    greedy = [count for one, count in drawn.items() if one.user == "greedy"]
    assert max(greedy) - min(greedy) <= 2, "and the greedy one's take turns"


def test_who_holds_more_than_its_share_yields_blocks_to_who_holds_less() -> None:
    s = scheduler(blocks=8, max_batch=4)
    for _ in range(4):
        s.add(sequence("greedy", prompt=20, max_tokens=12))
    compute(s, s.schedule())
    compute(s, s.schedule())
    assert (s.running, s.blocks.available) == (4, 0)
    oldest, youngest = running(s)[0], running(s)[-1]
    s.add(modest := sequence("modest", prompt=20, max_tokens=12))
    step = s.schedule()
    assert step.preempted == [youngest]
    assert modest in running(s)
    assert oldest in running(s)
    compute(s, step)
    while s.running or s.waiting:
        compute(s, s.schedule())
    assert youngest.drawn == 12


def test_nobody_yields_who_has_no_more_than_its_share() -> None:
    s = scheduler(blocks=4, max_batch=4)
    for _ in range(2):
        s.add(sequence("one", prompt=20, max_tokens=12))
    compute(s, s.schedule())
    compute(s, s.schedule())
    s.add(other := sequence("other", prompt=20, max_tokens=12))
    step = s.schedule()
    assert not step.preempted
    assert other not in running(s)


# ---- turns ---------------------------------------------------------------------------------------


class Generous(Pace):
    """Two rows beside those of who wants least."""

    def __init__(self) -> None:
        super().__init__(2.0)

    def row_budget(self, least: int, users: int, *, beside_prompts: bool) -> int:
        return max(least + 2, least * users)

    def prompt_budget(self, rows: int, most: int, *, is_only: bool = False) -> int:
        return most

    def first_budget(self, rows: int, most: int, *, beside: int) -> int:
        return most

    def shared_budget(self, rows: int, most: int, *, beside: int) -> int:
        return 1


def test_the_modest_one_is_in_every_step_and_those_of_the_greedy_one_in_turn() -> None:
    s = scheduler(max_batch=8, step_tokens=64, pace=Generous())
    s.add(modest := sequence("modest", max_tokens=100))
    for _ in range(6):
        s.add(sequence("greedy", max_tokens=100))
    compute(s, s.schedule())
    compute(s, s.schedule())
    drawn: Counter[Sequence] = Counter()
    for _ in range(30):
        step = s.schedule()
        assert step.rows == 3
        assert modest in [chunk.sequence for chunk in step.chunks]
        drawn.update(chunk.sequence for chunk in step.chunks)
        compute(s, step)
    del drawn[modest]
    assert set(drawn.values()) == {10}


def test_a_newcomers_prompt_has_every_other_step_nearly_for_itself() -> None:
    s = scheduler(max_batch=8, step_tokens=16, pace=Generous())
    for _ in range(4):
        s.add(sequence("greedy", prompt=4, max_tokens=100))
    compute(s, s.schedule())
    s.add(sequence("greedy", prompt=100))
    compute(s, s.schedule())
    s.add(sequence("modest", prompt=40))
    seen = []
    for _ in range(4):
        step = s.schedule()
        prompts = {c.sequence.user: c.count for c in step.chunks if c.count > 1}
        seen.append((step.rows, prompts))
        compute(s, step)
    assert seen[0] == (1, {"modest": 15})
    assert seen[1] == (4, {"greedy": 12})
    assert seen[2] == (1, {"modest": 15})


def test_of_two_who_want_the_same_none_gives_way() -> None:
    s = scheduler(max_batch=8, step_tokens=16, pace=Generous())
    s.add(sequence("one", max_tokens=100))
    compute(s, s.schedule())
    s.add(sequence("two", prompt=60))
    for _ in range(3):
        step = s.schedule()
        assert served(step) == ["one", "two"]
        assert step.prompt_tokens == 15
        compute(s, step)


def test_beams_of_a_search_take_their_turn_together() -> None:
    s = scheduler(max_batch=8, blocks=256, step_tokens=64, pace=Generous())
    s.add(modest := sequence("modest", max_tokens=100))
    s.add(parent := sequence("greedy", max_tokens=100), beams=3)
    for _ in range(4):
        s.add(sequence("greedy", max_tokens=100))
    compute(s, s.schedule())
    beams = [parent]
    for _ in range(2):
        child = sequence("greedy", list(parent.tokens[:4]), 100)
        child.tokens = list(parent.tokens)
        s.fork(parent, child)
        beams.append(child)
    compute(s, s.schedule())
    together = Counter()
    for _ in range(24):
        step = s.schedule()
        due = [chunk.sequence for chunk in step.chunks]
        assert modest in due
        together[sum(beam in due for beam in beams)] += 1
        compute(s, step)
    assert set(together) == {0, 3}
    assert together[3] >= 4


# ---- nothing stands still ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_everything_ends_whatever_comes_when(seed) -> None:
    """Users of all kinds, too little memory, steps of costs that change at random."""
    chance = random.Random(seed)

    def cost(rows: int, prompt: int) -> float:
        return small_cpu(rows, prompt) * chance.uniform(0.5, 2)

    blocks = chance.choice([24, 80, 512])
    machine = Machine(cost, options={"blocks": blocks, "max_batch": chance.choice([2, 4, 16])})
    s, everyone = machine.scheduler, []
    for _ in range(600):
        if chance.random() < 0.2 and len(everyone) < 120:
            user = chance.choice(["greedy", "greedy", "a", "b", "c"])
            one = sequence(user, chance.choice([3, 20, 150]), chance.choice([1, 10, 60]))
            if s.can_ever_fit(one):
                s.add(one)
                everyone.append(one)
        if s.running or s.waiting:
            machine.step()
            s.check()
    for _ in range(20_000):
        if not (s.running or s.waiting):
            break
        machine.step()
    assert all(one.drawn == one.params.max_tokens for one in everyone)
    assert s.blocks.available == blocks
