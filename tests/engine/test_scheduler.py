"""Who joins when, and who gets the step's tokens. No torch, no model."""

import itertools
import random
from typing import Any

import pytest

from llmapi.engine.blocks import BlockPool
from llmapi.engine.messages import SamplingParams
from llmapi.engine.pace import Pace
from llmapi.engine.scheduler import MAX_OVERTAKEN, Scheduler, Step
from llmapi.engine.sequence import Sequence


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


def test_a_modest_user_waits_for_one_admission_behind_a_hundred_of_a_greedy_one() -> None:
    s = scheduler(max_batch=4)
    for _ in range(100):
        s.add(sequence("greedy", max_tokens=20))
    for _ in range(3):
        compute(s, s.schedule())
    s.add(modest := sequence("modest"))
    while not (ended := compute(s, s.schedule())):
        assert modest not in running(s)
    s.schedule()
    assert ended
    assert modest in running(s)


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


# ---- prefixes ------------------------------------------------------------------------------------


def test_a_prompt_takes_over_what_its_user_had_computed_but_never_its_last_token() -> None:
    s = scheduler(step_tokens=64)
    prompt = fresh(48)
    s.add(sequence("a", prompt))
    run(s)
    for tokens, cached in ((48, 32), (47, 32), (33, 32), (32, 16), (17, 16), (16, 0), (3, 0)):
        s.add(again := sequence("a", prompt[:tokens]))
        (chunk,) = s.schedule().chunks
        assert (again.cached_tokens, chunk.start) == (cached, cached)
        s.remove(again)
    s.add(other := sequence("a", [*prompt[:20], *fresh(20)]))
    s.schedule()
    assert other.cached_tokens == 16


def test_the_next_turn_finds_the_answer_too() -> None:
    s = scheduler(step_tokens=64)
    s.add(turn := sequence("a", 20, max_tokens=30))
    run(s)
    s.add(following := sequence("a", [*turn.tokens, *fresh(9)]))
    s.schedule()
    assert following.cached_tokens == 48  # of 50; the last drawn one is never computed


def test_nobody_finds_what_another_user_had_computed() -> None:
    s = scheduler(step_tokens=64)
    prompt = fresh(40)
    s.add(sequence("a", prompt))
    run(s)
    s.add(stranger := sequence("b", prompt))
    s.schedule()
    assert stranger.cached_tokens == 0


def test_everyone_finds_what_is_shared_and_not_a_block_more() -> None:
    s = scheduler(step_tokens=128)
    prompt = fresh(80)  # the first 40 are shared: two full blocks of them
    s.add(sequence("a", prompt, shared_tokens=40))
    run(s)
    s.add(stranger := sequence("b", prompt, shared_tokens=40))
    s.add(same := sequence("a", prompt, shared_tokens=40))
    s.schedule()
    assert (stranger.cached_tokens, same.cached_tokens) == (32, 64)


def test_who_does_not_share_a_beginning_neither_finds_it_nor_gives_it() -> None:
    s = scheduler(step_tokens=128)
    prompt = fresh(80)
    s.add(sequence("a", prompt, shared_tokens=40))
    run(s)
    s.add(private := sequence("b", prompt))
    run(s)
    s.add(stranger := sequence("c", prompt, shared_tokens=80))
    s.schedule()
    assert (private.cached_tokens, stranger.cached_tokens) == (0, 32)


def test_equal_blocks_after_different_beginnings_are_different() -> None:
    s = scheduler(step_tokens=64)
    middle = fresh(16)
    s.add(sequence("a", fresh(16) + middle))
    run(s)
    s.add(moved := sequence("a", fresh(16) + middle + fresh(4)))
    s.schedule()
    assert moved.cached_tokens == 0


def test_equal_prompts_that_come_together_are_computed_once() -> None:
    s = scheduler(max_batch=8, step_tokens=16)
    prompt = fresh(100)
    choices = [sequence("a", prompt) for _ in range(5)]
    for choice in choices:
        s.add(choice)
    assert sum(step.prompt_tokens for step in run(s)) == 100 + 4 * (100 - 96)
    assert [choice.cached_tokens for choice in choices] == [0, 96, 96, 96, 96]


def test_a_follower_joins_as_soon_as_the_beginning_that_it_shares_is_there() -> None:
    s = scheduler(step_tokens=40)
    beginning = fresh(32)
    s.add(sequence("a", beginning + fresh(400)))
    s.add(follower := sequence("a", beginning + fresh(5)))
    compute(s, s.schedule())
    s.schedule()
    assert follower.cached_tokens == 32


def test_those_who_wait_for_a_beginning_let_others_of_their_line_pass() -> None:
    s = scheduler(step_tokens=16)
    prompt = fresh(60)
    for tokens in (prompt, prompt, fresh(4)):
        s.add(sequence("a", tokens))
    s.schedule()
    assert (s.running, s.waiting) == (2, 1)


def test_a_follower_computes_itself_what_its_leader_left_undone() -> None:
    s = scheduler(step_tokens=16)
    prompt = fresh(60)
    s.add(leader := sequence("a", prompt))
    s.add(follower := sequence("a", prompt))
    compute(s, s.schedule())
    s.remove(leader)
    (chunk,) = s.schedule().chunks
    assert (chunk.sequence, chunk.start) == (follower, 16)


@pytest.mark.parametrize("kind", ["embedding", "prompt_logprobs"])
def test_who_needs_every_position_skips_none(kind: str) -> None:
    s = scheduler(max_batch=4, step_tokens=64)
    prompt = fresh(40)
    s.add(sequence("a", prompt))
    run(s)
    if kind == "embedding":
        whole = [Sequence("r", i, "a", 40, list(prompt), None) for i in range(2)]
    else:
        whole = [sequence("a", prompt, prompt_logprobs=True) for _ in range(2)]
    for q in whole:
        s.add(q)
    assert [chunk.start for chunk in s.schedule().chunks] == [0, 0]
    assert [q.cached_tokens for q in whole] == [0, 0]


def test_what_was_used_longest_ago_is_evicted_first_and_the_end_before_the_beginning() -> None:
    s = scheduler(blocks=8, step_tokens=128)
    old, recent = fresh(64), fresh(48)
    for prompt in (old, recent):
        s.add(sequence("a", prompt, max_tokens=1))
        run(s)
    s.add(sequence("a", 40, max_tokens=1))  # 1 block was free, 2 must be evicted
    run(s)
    s.add(first := sequence("a", [*old, 0]))
    s.add(second := sequence("a", [*recent, 0]))
    assert len(s.prefixes.find(first)) == 2
    assert len(s.prefixes.find(second)) == 3


def test_a_preempted_one_finds_its_own_blocks_again_while_there_is_room() -> None:
    s = scheduler(blocks=6, max_batch=2, step_tokens=64)
    s.add(sequence("a", prompt=16, max_tokens=49))
    s.add(second := sequence("b", prompt=40, max_tokens=50))
    steps = run(s)
    computed = sum(chunk.count for step in steps for chunk in step.chunks)
    assert any(second in step.preempted for step in steps)
    assert computed < 16 + 48 + 40 + 49 + 40
    assert second.cached_tokens == 0  # what it took over when it first came


# ---- forks ---------------------------------------------------------------------------------------


def fork(s: Scheduler, parent: Sequence, token: int) -> Sequence:
    tokens = [*parent.tokens, token]
    child = Sequence("r", 0, parent.user, parent.prompt_tokens, tokens, parent.params)
    s.fork(parent, child)
    return child


def prefilled(s: Scheduler, prompt: int, max_tokens: int, beams: int) -> Sequence:
    root = sequence("a", prompt, max_tokens=max_tokens)
    assert s.can_ever_fit(root, beams=beams)
    s.add(root, beams=beams)
    while root.pending:
        step = s.schedule()
        s.advance(step.chunks)
        s.prefixes.publish(root)
    return root


def test_forks_share_full_blocks_and_copy_what_they_write_into() -> None:
    s = scheduler(step_tokens=64)
    root = prefilled(s, 40, 20, beams=3)
    children = [fork(s, root, token) for token in range(3)]
    s.remove(root)
    shared = list(children[0].blocks)
    step = s.schedule()
    s.check()
    assert all(child.blocks[:2] == shared[:2] for child in children)
    assert len({child.blocks[2] for child in children}) == 3
    assert len(step.copies) == 2  # the last one writes where it is
    assert {source for source, _ in step.copies} == {shared[2]}
    assert [(c.start, c.count) for c in step.chunks] == [(40, 1)] * 3


def test_a_fork_at_the_edge_of_a_block_copies_nothing() -> None:
    s = scheduler(step_tokens=64)
    root = prefilled(s, 32, 20, beams=2)
    for token in range(2):
        fork(s, root, token)
    s.remove(root)
    step = s.schedule()
    assert not step.copies
    assert len(step.chunks) == 2


def test_beams_run_to_their_end_beside_growing_answers_and_are_never_preempted() -> None:
    s = scheduler(blocks=12, max_batch=6, step_tokens=64)
    chance = random.Random(0)
    for _ in range(5):
        for user in "bcd":
            s.add(sequence(user, prompt=20, max_tokens=70))
        root = sequence("a", 30, max_tokens=30)
        s.add(root, beams=3)
        beams, drawn = [root], 0
        while drawn < 30:
            step = s.schedule()
            s.check()
            assert not set(step.preempted) & set(beams)
            mine = [chunk for chunk in step.chunks if chunk.sequence in beams]
            if len(mine) == len(beams) and all(chunk.completes for chunk in mine):
                s.advance(mine)
                parents = chance.choices(beams, k=3)
                survivors = [fork(s, parent, drawn) for parent in parents]
                for beam in beams:
                    s.remove(beam)
                beams, drawn = survivors, drawn + 1
                step.chunks = [chunk for chunk in step.chunks if chunk not in mine]
            compute(s, step)
        for beam in beams:
            s.remove(beam)
    run(s)
    assert s.blocks.available == 12


def test_a_family_too_large_for_the_cache_or_the_batch_is_known_beforehand() -> None:
    s = scheduler(blocks=7, max_batch=4)
    root = sequence("a", 40, max_tokens=20)  # 2 full blocks, and 2 for each beam
    assert s.can_ever_fit(root, beams=2)
    assert not s.can_ever_fit(root, beams=3)
    assert not s.can_ever_fit(sequence("a", 4), beams=5)


def test_only_members_of_a_family_fork() -> None:
    s = scheduler()
    s.add(lone := sequence("a"))
    compute(s, s.schedule())
    with pytest.raises(ValueError, match="beams"):
        fork(s, lone, 1)


# ---- pace ----------------------------------------------------------------------------------------


def test_prompts_get_what_the_pace_allows_beside_decoding_and_everything_without() -> None:
    class Slow(Pace):
        def prompt_budget(self, rows: int, most: int) -> int:
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
