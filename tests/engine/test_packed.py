"""The fused decoder as a GPU computes it, on a CPU: packed attention, and decode steps in buckets
over fixed memory. (The kernel and the graphs themselves: test_cuda.py.)"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import Reference, ask, drive, embed, make_engine, some_prompt

from llmapi.engine import graphs
from llmapi.engine.decoder import FusedDecoder
from llmapi.engine.engine import Engine
from llmapi.engine.graphs import DecodeSteps, bucket_of_room, bucket_of_rows
from llmapi.engine.packed import find_varlen
from llmapi.engine.sequence import Sequence
from llmapi.engine.step import Chunk


@pytest.fixture
def engine(tiny_dir: Path, packed: None) -> Engine:
    return make_engine(tiny_dir, decoder="fused")


def network_of(engine: Engine) -> FusedDecoder:
    network = engine.runner.network
    assert isinstance(network, FusedDecoder)
    return network


def steps_of(engine: Engine) -> DecodeSteps:
    steps = network_of(engine)._steps
    assert steps is not None
    return steps


def keep_runs(engine: Engine) -> list[int]:
    """How many rows each decode step that went through a bucket had."""
    steps, seen = steps_of(engine), []
    run: Callable[..., Any] = steps.run
    steps.run = lambda chunks: (seen.append(len(chunks)), run(chunks))[1]  # type: ignore
    return seen


def pools(engine: Engine) -> list[torch.Tensor]:
    """Keys and values as `[kv_heads, blocks, numbers]`."""
    cache = engine.runner.cache
    return [
        pool.view(cache.shape.kv_heads, cache.blocks, -1)
        for pair in cache.layers()
        for pool in pair
    ]


def sequences(engine: Engine, *lengths: int) -> list[Sequence]:
    """All but the last token of each is in the cache, what is beside them is NaN."""
    for pool in pools(engine):
        pool[:, 1:] = torch.nan
    size, block, made = engine.runner.cache.block_size, 1, []
    for number, length in enumerate(lengths):
        count = -(-length // size)
        made.append(Sequence("", number, "", length, some_prompt(number, length), None))
        made[-1].blocks = list(range(block, block + count))
        block += count
    if prompts := [Chunk(s, 0, len(s.tokens) - 1) for s in made if len(s.tokens) > 1]:
        engine.runner.forward(prompts)
    return made


def expected(engine: Engine, tokens: list[int], reference: Reference) -> torch.Tensor:
    with torch.inference_mode():
        return reference.model.model(torch.tensor([tokens])).last_hidden_state[0, -1]


@pytest.mark.parametrize(
    "lengths",
    [
        (1,),
        (16,),
        (17, 1),
        (300, 2, 33),
        (64, 64, 64, 64),
        (5, 400, 31, 32, 90),
        (9,) * 7,
        (8,) * 8,
    ],
)
def test_a_padded_step_gives_everyone_its_own_and_touches_nobody_else(
    engine: Engine, reference: Reference, lengths: tuple[int, ...]
) -> None:
    made = sequences(engine, *lengths)
    before = [pool.clone() for pool in pools(engine)]
    runs = keep_runs(engine)
    hidden = network_of(engine).forward([Chunk(s, len(s.tokens) - 1, 1) for s in made])
    assert runs == [len(lengths)]
    for sequence, row in zip(made, hidden, strict=True):
        assert torch.allclose(row[0], expected(engine, sequence.tokens, reference), atol=1e-4)
    cache = engine.runner.cache
    last = torch.tensor([s.blocks[-1] for s in made])
    others = torch.ones(cache.blocks, dtype=torch.bool)
    others[last] = others[cache.scratch] = False
    for old, new in zip(before, pools(engine), strict=True):
        assert torch.equal(old[:, others].nan_to_num(), new[:, others].nan_to_num())
        for sequence in made:  # of its last block, one position has changed
            place, block = (len(sequence.tokens) - 1) % cache.block_size, sequence.blocks[-1]
            a, b = (
                x[:, block].view(cache.shape.kv_heads, cache.block_size, -1) for x in (old, new)
            )
            same = torch.arange(cache.block_size) != place
            assert torch.equal(a[:, same].nan_to_num(), b[:, same].nan_to_num())
            assert b[:, place].isfinite().all()
        assert not new[:, 0].any()


def test_many_steps_in_growing_and_shrinking_batches_equal_the_usual_way(
    engine: Engine, tiny_dir: Path
) -> None:
    usual = make_engine(tiny_dir, decoder="native")
    runs = keep_runs(engine)
    requests = [ask(f"r{i}", some_prompt(i, 3 + 11 * i), max_tokens=5 + 6 * i) for i in range(8)]
    requests += [ask("n", some_prompt(9, 40), n=3, max_tokens=20, do_sample=True, seed=4)]
    requests += [ask("b", some_prompt(10, 33), max_tokens=20, num_beams=3)]
    ours, theirs = drive(engine, *requests), drive(usual, *requests)
    assert {*ours.finished} == {*theirs.finished}
    for choice in theirs.finished:
        assert ours.text(*choice) == theirs.text(*choice)
    assert {bucket_of_rows(rows, 8) for rows in runs} == {1, 4, 8}


def test_choices_that_share_more_than_the_cache_could_hold_go_without_a_bucket(
    tiny_dir: Path, packed: None, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, decoder="fused", kv_cache_tokens=512)
    runs = keep_runs(engine)
    prompt = some_prompt(1, 100)
    told = drive(engine, ask("r", prompt, n=8, max_tokens=20))
    assert not runs
    for index in range(8):
        assert told.text("r", index) == reference.continue_text(prompt, 20)[0]
    drive(engine, ask("r", prompt, n=2, max_tokens=20))
    assert set(runs) == {2}


def test_who_had_to_yield_goes_on_in_other_blocks(
    tiny_dir: Path, packed: None, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, decoder="fused", kv_cache_tokens=128)
    put_back, yielded = engine._scheduler._waiting.put_back, []
    engine._scheduler._waiting.put_back = lambda s: (yielded.append(s), put_back(s))[1]
    told = drive(engine, *(ask(f"r{i}", some_prompt(i, 20), max_tokens=50) for i in range(6)))
    assert yielded
    for i in range(6):
        assert told.text(f"r{i}") == reference.continue_text(some_prompt(i, 20), 50)[0]


def test_embeddings_beside_answers(engine: Engine, reference: Reference) -> None:
    inputs = [some_prompt(i, n) for i, n in enumerate((1, 30, 100))]
    told = drive(engine, ask("r", some_prompt(5, 10), max_tokens=30), embed("e", *inputs))
    for index, tokens in enumerate(inputs):
        assert torch.allclose(told.vectors["e", index], reference.vector(tokens), atol=1e-5)
    assert told.text("r") == reference.continue_text(some_prompt(5, 10), 30)[0]


def test_broken_numbers_of_one_row_stay_in_it(engine: Engine, reference: Reference) -> None:
    good, bad = sequences(engine, 20, 30)
    for pool in pools(engine):
        pool[:, bad.blocks[0]] = torch.nan
    rows = network_of(engine).forward([Chunk(good, 19, 1), Chunk(bad, 29, 1)])
    assert torch.allclose(rows[0][0], expected(engine, good.tokens, reference), atol=1e-4)
    assert rows[1].isnan().all()


@pytest.mark.parametrize("most", [1, 3, 8, 20, 32, 100])
def test_buckets_hold_what_they_are_for_and_are_few(most: int) -> None:
    rows = [bucket_of_rows(n, most) for n in range(1, most + 1)]
    assert all(n <= bucket <= most for n, bucket in enumerate(rows, 1))
    assert rows == sorted(rows)
    assert len(set(rows)) <= 4 + -(-most // 8)


def test_room_is_a_power_of_two_and_at_most_half_is_wasted() -> None:
    assert bucket_of_room(1) == bucket_of_room(512) == 512
    assert all(n <= bucket_of_room(n) < 2 * n for n in range(512, 5000))


class _Replayed:
    """A graph as a CPU can have it: it computes from the same memory whenever it is replayed."""

    def __init__(self, steps: DecodeSteps, bucket: tuple[int, int]) -> None:
        self.steps, self.bucket, self.replays = steps, bucket, 0

    def replay(self) -> None:
        self.replays += 1
        self.steps._compute(*self.bucket)


def test_each_bucket_is_captured_once_and_then_replayed(
    engine: Engine, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, captured = steps_of(engine), []

    def capture(*bucket: int) -> None:
        captured.append(bucket)
        steps._graphs[bucket] = _Replayed(steps, bucket)  # type: ignore

    monkeypatch.setattr(steps, "_captures", True)
    monkeypatch.setattr(steps, "_capture", capture)
    runs = keep_runs(engine)
    told = drive(engine, *(ask(f"r{i}", some_prompt(i, 9), max_tokens=9 + i) for i in range(3)))
    for i in range(3):
        assert told.text(f"r{i}") == reference.continue_text(some_prompt(i, 9), 9 + i)[0]
    assert captured == [(4, 512), (2, 512), (1, 512)]
    assert sum(graph.replays for graph in steps._graphs.values()) == len(runs)  # type: ignore


def test_where_capturing_fails_decoding_goes_on_without(
    engine: Engine, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    steps_of(engine)._captures = True  # torch refuses to make a graph on a CPU
    told = drive(engine, ask("r", some_prompt(1, 9), max_tokens=9))
    assert told.text("r") == reference.continue_text(some_prompt(1, 9), 9)[0]
    assert len([r for r in caplog.records if r.name == graphs.__name__]) == 1


def test_the_way_it_is_computed_is_told(engine: Engine, tiny_dir: Path) -> None:
    assert network_of(engine).name == "fused decoder, packed attention"


def test_without_torchs_kernel_the_usual_plan_is_taken(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_varlen(torch.device("cpu"), torch.bfloat16, 4, 2, 64) is None
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, is_causal=False: query)
    assert find_varlen(torch.device("cuda"), torch.bfloat16, 4, 2, 64) is None
    network = network_of(make_engine(tiny_dir, decoder="fused"))
    assert network.name == "fused decoder"
    assert network._steps is None
