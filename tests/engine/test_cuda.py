"""What only a GPU can show: torch's kernel, captured graphs, draws.

Needs no web parts: pytest -c tests/engine/pytest.ini --rootdir tests/engine -m cuda tests/engine
"""

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from driving import Reference, ask, drive, embed, make_engine, packed_attention, some_prompt
from test_packed import network_of, pools, sequences, steps_of

from llmapi.engine.engine import Engine
from llmapi.engine.messages import GenerateRequest, SamplingParams
from llmapi.engine.packed import find_varlen
from llmapi.engine.requests import sequences_of
from llmapi.engine.sampler import Sampler
from llmapi.engine.step import Chunk

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
DEVICE = torch.device("cuda")
HALF = [torch.bfloat16, torch.float16]


def skip_without_varlen() -> None:
    if find_varlen(DEVICE, torch.float16, 4, 2, 64) is None:
        pytest.skip("torch has no varlen_attn for this GPU")


@pytest.fixture(params=["bfloat16", "float16"])
def engine(request: pytest.FixtureRequest, tiny_dir: Path) -> Engine:
    skip_without_varlen()
    return make_engine(tiny_dir, device="cuda", dtype=request.param, kv_cache_tokens=8192)


def near(ours: torch.Tensor, right: torch.Tensor, tolerance: float) -> bool:
    """By the norm of the difference; NaN is never near."""
    ours, right = ours.double().cpu(), right.double().cpu()
    return bool((ours - right).norm() <= tolerance * right.norm())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 16), (9, 3, 64), (32, 8, 128)])
@pytest.mark.parametrize(
    ("counts", "lengths"),
    [
        ((7,), (7,)),
        ((5, 1, 64), (70, 300, 64)),
        ((1, 1, 1), (1, 77, 2000)),
        ((1,) * 9, (17, 1, 1, 500, 33, 8, 129, 1, 64)),
    ],
)
def test_torchs_kernel_computes_what_our_stand_in_does(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    dim: int,
    counts: tuple[int, ...],
    lengths: tuple[int, ...],
) -> None:
    skip_without_varlen()
    varlen = find_varlen(DEVICE, dtype, heads, kv_heads, dim)
    assert varlen is not None
    room = sum(lengths) + 100  # behind the last position is what must not be looked at
    q = torch.randn(sum(counts), heads, dim, device=DEVICE, dtype=dtype)
    k, v = torch.randn(2, kv_heads, room, dim, device=DEVICE, dtype=dtype).transpose(1, 2)
    k[sum(lengths) :] = v[sum(lengths) :] = torch.nan
    ends = [
        torch.tensor([0, *accumulate(part)], dtype=torch.int32, device=DEVICE)
        for part in (counts, lengths)
    ]
    whole = [(-1, -1)] if max(counts) == 1 else []
    for window in [*whole, (-1, 0), (15, 0), (1000, 0)]:
        given = {"scale": dim**-0.5, "window_size": window}
        ours = varlen(q, k, v, *ends, max(counts), max(lengths) + 500, **given)
        exact = (x.double() for x in (q, k, v))
        right = packed_attention(*exact, *ends, max(counts), max(lengths) + 500, **given)
        assert near(ours, right, 1e-2)


@pytest.mark.parametrize("lengths", [(1,), (17, 1), (300, 2, 33), (64,) * 5, (9,) * 7, (600,) * 8])
def test_a_replay_equals_the_same_step_without_a_graph_and_the_model(
    engine: Engine, reference: Reference, lengths: tuple[int, ...]
) -> None:
    chunks = [Chunk(s, len(s.tokens) - 1, 1) for s in sequences(engine, *lengths)]
    steps = steps_of(engine)
    with torch.inference_mode():
        first = steps.run(chunks).clone()
        assert steps._graphs
        again = steps.run(chunks).clone()
        kept = [pool.clone() for pool in pools(engine)]
        steps._graphs, steps._captures = {}, False
        eager = steps.run(chunks).clone()
        right = torch.stack(
            [reference.model.model(torch.tensor([c.sequence.tokens]))[0][0, -1] for c in chunks]
        )
    assert near(first, eager, 1e-3)
    assert near(again, eager, 1e-3)
    assert near(again, right, 5e-2)
    for before, after in zip(kept, pools(engine), strict=True):
        written = torch.arange(before.shape[1], device=DEVICE) != engine.runner.cache.scratch
        assert near(before[:, written].nan_to_num(), after[:, written].nan_to_num(), 1e-3)


def test_a_replayed_step_makes_the_host_wait_for_nothing(engine: Engine) -> None:
    chunks = [Chunk(s, len(s.tokens) - 1, 1) for s in sequences(engine, 30, 40, 50)]
    forward = network_of(engine).forward
    with torch.inference_mode():
        forward(chunks)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            forward(chunks)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_one_graph_serves_batches_and_lengths_of_its_bucket(engine: Engine) -> None:
    steps = steps_of(engine)
    drive(engine, *(ask(f"r{i}", some_prompt(i, 5 + 9 * i), max_tokens=40) for i in range(8)))
    assert set(steps._graphs) <= {(rows, room) for rows in (1, 2, 4, 8) for room in (512, 1024)}
    assert steps._captures


def test_everything_at_once_ends_and_gives_its_blocks_back(tiny_dir: Path) -> None:
    skip_without_varlen()
    engine = make_engine(tiny_dir, device="cuda", dtype="bfloat16", kv_cache_tokens=512)
    sampled = {"do_sample": True, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}
    told = drive(
        engine,
        *(ask(f"r{i}", some_prompt(i, 40), max_tokens=60, ignore_eos=True) for i in range(6)),
        ask("n", some_prompt(7, 30), n=3, max_tokens=30, **sampled),
        ask("b", some_prompt(8, 30), max_tokens=20, num_beams=3),
        ask("p", some_prompt(9, 100), max_tokens=1, logprobs=2, prompt_logprobs=True),
        embed("e", some_prompt(10, 50), some_prompt(11, 1)),
    )
    assert not told.failed
    assert len(told.finished) == 11
    assert len(told.vectors) == 2
    engine._scheduler.check()
    assert engine.free_blocks == 32


def test_float32_takes_the_usual_plan_and_equals_transformers(
    tiny_dir: Path, reference: Reference
) -> None:
    engine = make_engine(tiny_dir, device="cuda", dtype="float32")
    assert network_of(engine).name == "fused decoder"
    told = drive(engine, *(ask(f"r{i}", some_prompt(i, 5 + 30 * i)) for i in range(5)))
    for i in range(5):
        expected = reference.continue_text(some_prompt(i, 5 + 30 * i), 16)[0]
        assert told.text(f"r{i}") == expected


def test_the_way_it_is_computed_is_told(engine: Engine) -> None:
    assert network_of(engine).name == "fused decoder, packed attention, CUDA graphs"


def test_the_same_seed_draws_the_same_on_a_gpu() -> None:
    logits = torch.randn(6, 3000, generator=torch.Generator().manual_seed(0)) * 3
    params = [
        {},
        {"do_sample": True, "seed": 1},
        {"do_sample": True, "seed": 2, "temperature": 0.7, "top_k": 40},
        {"do_sample": True, "seed": 3, "top_p": 0.9},
        {"do_sample": True, "seed": 4, "min_p": 0.05, "repetition_penalty": 1.3},
        {"do_sample": True, "seed": 5, "presence_penalty": 1.0, "logit_bias": ((5, 4.0),)},
    ]

    def draws(device: str) -> list[list[int | None]]:
        sampler, rows = Sampler(), []
        for values in params:
            given = SamplingParams(**({"max_tokens": 50, "do_sample": False} | values))
            request = GenerateRequest("r", "u", (tuple(some_prompt(1, 20)),), given)
            rows += sequences_of(request, eos=[2])
        return [sampler.sample(logits.to(device).clone(), rows) for _ in range(20)]

    assert draws("cuda") == draws("cpu")
