"""Who joins when, and who gets the step's tokens. No torch, no model."""

import pytest
from scheduling import compute, run, running, scheduler, sequence, served, until_preempted

from llmapi.engine.pace import Pace
from llmapi.engine.scheduler import MAX_OVERTAKEN


def test_decoding_comes_before_prompts_and_the_budget_is_kept() -> None:
    s = scheduler()
    writing, long = sequence("a"), sequence("b", prompt=40)
    s.add(writing)
    compute(s, s.schedule())
    s.add(long)
    step = s.schedule()
    assert [(c.sequence, c.count) for c in step.chunks] == [(writing, 1), (long, 15)]
    compute(s, step)
    assert [(c.start, c.count) for c in s.schedule().chunks] == [(5, 1), (15, 15)]


def test_only_the_last_chunk_of_a_prompt_draws() -> None:
    s = scheduler()
    s.add(sequence("a", prompt=20))
    first = s.schedule()
    assert not first.chunks[0].draws
    compute(s, first)
    assert s.schedule().chunks[0].draws


def test_users_are_admitted_in_turn() -> None:
    s = scheduler(max_batch=3)
    for _ in range(10):
        s.add(sequence("greedy"))
    s.add(sequence("modest"))
    assert served(s.schedule()) == ["greedy", "modest", "greedy"]


def test_long_prompts_of_two_users_share_the_steps() -> None:
    s = scheduler()
    for user in ("greedy", "greedy", "greedy", "modest"):
        s.add(sequence(user, prompt=160))
    users = []
    for _ in range(8):
        step = s.schedule()
        users += served(step)
        compute(s, step)
    assert users.count("modest") >= 4


def test_what_never_fits_is_known_beforehand() -> None:
    s = scheduler(blocks=4)
    assert s.can_ever_fit(sequence("a", prompt=64, max_tokens=1))
    assert not s.can_ever_fit(sequence("a", prompt=64, max_tokens=2))


def test_a_big_request_is_overtaken_only_so_often() -> None:
    s = scheduler(blocks=4, max_batch=4)
    small = sequence("small", prompt=4, max_tokens=5)
    s.add(small)
    s.schedule()
    big = sequence("big", prompt=64, max_tokens=1)
    s.add(big)
    overtakers = 0
    while True:
        following = sequence("small", prompt=4, max_tokens=5)
        s.add(following)
        admitted = following in [c.sequence for c in s.schedule().chunks]
        if not admitted:
            break
        overtakers += 1
        s.remove(small)
        small = following
    assert overtakers == MAX_OVERTAKEN
    s.remove(small)
    assert big in [c.sequence for c in s.schedule().chunks]


def test_removing_gives_back_every_block_and_place() -> None:
    s = scheduler()
    running, waiting = sequence("a"), sequence("a")
    s.add(running)
    s.schedule()
    s.add(waiting)
    s.remove(waiting)
    s.remove(running)
    s.remove(running)
    assert (s.running, s.waiting, s.blocks.available) == (0, 0, 64)


def test_a_budget_below_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens"):
        scheduler(max_batch=17)


# ---- fairness ------------------------------------------------------------------------------------


def test_places_go_to_the_user_who_has_the_fewest() -> None:
    s = scheduler(max_batch=6)
    for _ in range(6):
        s.add(sequence("greedy", max_tokens=100))
    for _ in range(3):
        compute(s, s.schedule())
    for user in ("b", "b", "c"):
        s.add(sequence(user, max_tokens=100))
    for greedy in running(s)[:3]:
        s.remove(greedy)
    s.schedule()
    assert [q.user for q in running(s)] == ["greedy"] * 3 + ["b", "c", "b"]


def test_a_user_at_its_share_does_not_pass_one_who_waits_for_blocks() -> None:
    s = scheduler(blocks=8, max_batch=4)
    for _ in range(2):
        s.add(sequence("greedy", prompt=16, max_tokens=30))
    compute(s, s.schedule())
    s.add(sequence("modest", prompt=112))
    s.add(sequence("greedy"))
    assert set(served(s.schedule())) == {"greedy"}
    assert (s.running, s.waiting) == (2, 2)


# ---- growing and yielding ------------------------------------------------------------------------


def test_an_answer_takes_its_blocks_as_it_grows() -> None:
    s = scheduler()
    s.add(growing := sequence("a", prompt=10, max_tokens=40))
    sizes = []
    while s.running or s.waiting:
        compute(s, s.schedule())
        sizes.append(len(growing.blocks))
    # 49 positions, the last token is never fed back; at the end all is given back.
    assert sizes == [1] * 7 + [2] * 16 + [3] * 16 + [0]


def test_short_answers_with_a_high_limit_run_side_by_side() -> None:
    s = scheduler(blocks=8, max_batch=4)
    for user in "abcd":
        s.add(sequence(user, prompt=4, max_tokens=120))
    s.schedule()
    assert s.running == 4


def test_the_youngest_of_the_user_who_holds_most_yields_and_comes_first_again() -> None:
    s = scheduler(blocks=6, max_batch=4, step_tokens=64)
    s.add(oldest := sequence("modest", prompt=16, max_tokens=80))
    s.add(first := sequence("greedy", prompt=16, max_tokens=40))
    s.add(second := sequence("greedy", prompt=16, max_tokens=40))
    step = until_preempted(s)
    assert step.preempted == [second]
    assert (second.computed, second.blocks, second.drawn) == (0, [], 17)
    assert running(s) == [oldest, first]
    s.add(later := sequence("greedy"))
    assert list(s._waiting) == [second, later]
    compute(s, step)
    run(s)
    assert [q.drawn for q in (oldest, first, second, later)] == [80, 40, 40, 5]


def test_the_only_one_running_is_never_preempted() -> None:
    s = scheduler(blocks=4)
    s.add(sequence("a", prompt=30, max_tokens=34))
    assert not any(step.preempted for step in run(s))


def test_the_oldest_gets_to_its_end_however_many_come_after_it() -> None:
    s = scheduler(blocks=6, max_batch=6, step_tokens=32)
    s.add(oldest := sequence("big", prompt=30, max_tokens=60))
    compute(s, s.schedule())
    while oldest.drawn < 60:
        while s.waiting < 4:
            s.add(sequence("small", prompt=20, max_tokens=40))
        step = s.schedule()
        assert oldest not in step.preempted
        compute(s, step)
    run(s)


def test_everyone_ends_though_the_cache_is_too_small_for_two() -> None:
    s = scheduler(blocks=6, max_batch=4, step_tokens=16)
    everyone = [sequence(f"u{i % 3}", prompt=20 + i, max_tokens=60 - i) for i in range(12)]
    for q in everyone:
        assert s.can_ever_fit(q)
        s.add(q)
    steps = run(s)
    assert sum(len(step.preempted) for step in steps) > 0
    assert [q.drawn for q in everyone] == [60 - i for i in range(12)]
    assert s.blocks.available == 6


def test_what_a_preempted_one_gives_back_is_scrubbed_unless_it_is_known_to_be_sound() -> None:
    s = scheduler(blocks=6, max_batch=2, step_tokens=64)
    s.add(sequence("a", prompt=16, max_tokens=60))
    s.add(second := sequence("b", prompt=36, max_tokens=60))
    for _ in range(17):
        compute(s, s.schedule())
    sound, unknown = second.blocks[:3], second.blocks[3:]
    step = s.schedule()
    assert step.preempted == [second]
    assert step.dirty == unknown
    assert s.prefixes.find(second) == sound


# ---- pace ----------------------------------------------------------------------------------------


def test_prompts_get_what_the_pace_allows_beside_decoding_and_everything_without() -> None:
    class Slow(Pace):
        def prompt_budget(self, rows: int, most: int, *, is_only: bool = False) -> int:
            return min(3 * rows, most) if rows else most

    s = scheduler(step_tokens=64, pace=Slow(2.0))
    s.add(sequence("a"))
    compute(s, s.schedule())
    s.add(sequence("b", prompt=100))
    step = s.schedule()
    assert (step.rows, step.prompt_tokens) == (1, 3)
    compute(s, step)
    s.remove(running(s)[0])
    assert s.schedule().prompt_tokens == 64
