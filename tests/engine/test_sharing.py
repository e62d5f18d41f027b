"""Blocks that several sequences hold: prefixes taken over, and forks. No torch, no model."""

import random

import pytest
from scheduling import compute, fresh, run, scheduler, sequence

from llmapi.engine.scheduler import Scheduler
from llmapi.engine.sequence import Sequence

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
