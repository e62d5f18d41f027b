"""Who joins when, and who gets the step's tokens. No torch, no model."""

import pytest

from llmapi.engine.blocks import BlockPool
from llmapi.engine.messages import SamplingParams
from llmapi.engine.scheduler import MAX_OVERTAKEN, Chunk, Scheduler
from llmapi.engine.sequence import Sequence


def sequence(user: str, prompt: int = 4, max_tokens: int = 5) -> Sequence:
    return Sequence("r", 0, user, prompt, [1] * prompt, SamplingParams(max_tokens=max_tokens))


def scheduler(*, blocks: int = 64, max_batch: int = 4, step_tokens: int = 16) -> Scheduler:
    return Scheduler(BlockPool(blocks, 16), max_batch=max_batch, step_tokens=step_tokens)


def compute(chunks: list[Chunk]) -> None:
    for chunk in chunks:
        chunk.sequence.computed = chunk.end
        if chunk.draws:
            chunk.sequence.tokens.append(1)


def test_decoding_comes_before_prompts_and_the_budget_is_kept() -> None:
    s = scheduler()
    writing, long = sequence("a"), sequence("b", prompt=40)
    s.add(writing)
    compute(s.schedule())
    s.add(long)
    chunks = s.schedule()
    assert [(c.sequence, c.count) for c in chunks] == [(writing, 1), (long, 15)]
    compute(chunks)
    assert [(c.start, c.count) for c in s.schedule()] == [(5, 1), (15, 15)]


def test_only_the_last_chunk_of_a_prompt_draws() -> None:
    s = scheduler()
    s.add(sequence("a", prompt=20))
    (first,) = s.schedule()
    assert not first.draws
    compute([first])
    (last,) = s.schedule()
    assert last.draws


def test_users_are_admitted_in_turn() -> None:
    s = scheduler(max_batch=3)
    for _ in range(10):
        s.add(sequence("greedy"))
    s.add(sequence("modest"))
    assert [c.sequence.user for c in s.schedule()] == ["greedy", "modest", "greedy"]


def test_long_prompts_of_two_users_share_the_steps() -> None:
    s = scheduler()
    for user in ("greedy", "greedy", "greedy", "modest"):
        s.add(sequence(user, prompt=160))
    served = []
    for _ in range(8):
        chunks = s.schedule()
        served += [c.sequence.user for c in chunks]
        compute(chunks)
    assert served.count("modest") >= 4


def test_no_sequence_is_admitted_without_room_for_its_whole_answer() -> None:
    s = scheduler(blocks=4)
    s.add(sequence("a", prompt=16, max_tokens=33))  # 3 blocks
    s.add(sequence("b", prompt=16, max_tokens=17))  # 2 blocks
    assert [c.sequence.user for c in s.schedule()] == ["a"]
    assert s.blocks.available == 1
    assert s.waiting == 1


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
        admitted = following in [c.sequence for c in s.schedule()]
        if not admitted:
            break
        overtakers += 1
        s.remove(small)
        small = following
    assert overtakers == MAX_OVERTAKEN
    s.remove(small)
    assert big in [c.sequence for c in s.schedule()]


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


def test_a_block_given_back_twice_is_noticed() -> None:
    pool = BlockPool(4, 16)
    blocks = pool.allocate(2)
    pool.free(blocks)
    with pytest.raises(KeyError):
        pool.free(blocks)
    with pytest.raises(IndexError):
        pool.allocate(5)


def test_a_budget_below_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="step_tokens"):
        scheduler(max_batch=17)
