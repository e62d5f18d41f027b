"""Beam search step by step: transformers' own answers from a plain recomputation of every beam."""

import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as ListOf
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
import tiny
import torch
from transformers import LlamaForCausalLM, StoppingCriteriaList

from llmapi.engine import beams
from llmapi.engine.beams import BeamSearch, Hypothesis, draw
from llmapi.engine.messages import FinishReason, SamplingParams

CPU = torch.device("cpu")
VOCAB = 24
Logits = Callable[[list[list[int]]], torch.Tensor]


def tiny_llama(seed: int) -> LlamaForCausalLM:
    """In float64, so that both ways to the logits round to the same float32 numbers."""
    config = tiny.llama_config(
        tiny.byte_level_tokenizer(),
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).double().eval()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from threads, and on a busy machine lose a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models() -> list[LlamaForCausalLM]:
    return [tiny_llama(seed) for seed in range(4)]


def logits_of(model: LlamaForCausalLM) -> Logits:
    def logits(rows: list[list[int]]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor(rows)).logits[:, -1]

    return logits


def case(*values: Any) -> int:
    """A number that is always the same for the same values."""
    return zlib.crc32(repr(values).encode())


def a_prompt(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (1 + seed % 7,), generator=generator).tolist()


def search_of(
    prompt: list[int],
    params: SamplingParams,
    n: int = 1,
    eos: tuple[int, ...] = (),
    vocab_size: int = VOCAB,
    **more: Any,
) -> BeamSearch:
    return BeamSearch(
        prompt,
        params,
        n=n,
        index=0,
        eos_token_ids=eos,
        vocab_size=vocab_size,
        device=CPU,
        **more,
    )


def run(search: BeamSearch, logits: Logits, prompt: list[int]) -> list[Hypothesis]:
    """Recompute every beam at every step; what was settled once must stay."""
    rows, settled = [prompt], search.settled()
    while rows:
        live = search.step(logits(rows))
        assert all(math.isfinite(beam.score) for beam in live)
        rows = [[*rows[beam.parent], beam.tokens[-1]] for beam in live]
        assert rows == [[*prompt, *beam.tokens] for beam in live]
        assert search.settled()[: len(settled)] == settled
        settled = search.settled()
    best = search.best()
    assert settled in ((), best[0].tokens)
    assert all(math.isfinite(hypothesis.score) for hypothesis in best)
    return best


def generate(
    model: LlamaForCausalLM,
    prompt: list[int],
    params: SamplingParams,
    n: int,
    eos: tuple[int, ...],
    criteria: ListOf[Any] = (),
) -> list[Hypothesis]:
    """transformers' own answers, without their padding."""
    more: dict[str, Any] = {"min_new_tokens": params.min_tokens} if eos else {}
    if params.do_sample:
        more |= {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p}
        more |= {"min_p": params.min_p or None}
    never = params.early_stopping is None
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_tokens,
            num_beams=params.num_beams,
            num_return_sequences=n,
            do_sample=params.do_sample,
            repetition_penalty=params.repetition_penalty,
            length_penalty=params.length_penalty,
            early_stopping="never" if never else params.early_stopping,
            eos_token_id=list(eos) or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            stopping_criteria=StoppingCriteriaList(criteria),
            **more,
        )
    rows = output.sequences[:, len(prompt) :].tolist()
    return [
        without_padding(row, score, eos)
        for row, score in zip(rows, output.sequences_scores.tolist(), strict=True)
    ]


def without_padding(row: list[int], score: float, eos: tuple[int, ...]) -> Hypothesis:
    for count, token in enumerate(row, start=1):
        if token in eos:
            return Hypothesis(tuple(row[:count]), score, FinishReason.STOP)
    return Hypothesis(tuple(row), score, FinishReason.LENGTH)


def assert_same(ours: list[Hypothesis], theirs: list[Hypothesis]) -> None:
    assert [(h.tokens, h.reason) for h in ours] == [(h.tokens, h.reason) for h in theirs]
    assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], rel=1e-4)


# ---- plain beam search ---------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [True, False, None])
@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize(("beams", "n"), [(2, 1), (2, 2), (3, 2), (4, 4)])
def test_beam_search_equals_generate(
    models: list[LlamaForCausalLM],
    beams: int,
    n: int,
    length_penalty: float,
    early_stopping: bool | None,
) -> None:
    seed = case(beams, n, length_penalty, early_stopping)
    prompt, model = a_prompt(seed % 1000), models[seed % len(models)]
    eos = (2,) if seed % 2 else (2, 5, 9)
    params = SamplingParams(
        max_tokens=12,
        do_sample=False,
        num_beams=beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    ours = run(search_of(prompt, params, n, eos), logits_of(model), prompt)
    assert_same(ours, generate(model, prompt, params, n, eos))


@pytest.mark.parametrize("eos", [(), (2,), (4, 7), (2, 5, 9, 11, 13)])
@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("min_tokens", [0, 4])
def test_processors_equal_those_of_generate(
    models: list[LlamaForCausalLM],
    eos: tuple[int, ...],
    repetition_penalty: float,
    min_tokens: int,
) -> None:
    seed = case(eos, repetition_penalty, min_tokens)
    prompt, model = a_prompt(seed % 1000), models[seed % len(models)]
    params = SamplingParams(
        max_tokens=10,
        do_sample=False,
        num_beams=3,
        repetition_penalty=repetition_penalty,
        min_tokens=min_tokens,
    )
    ours = run(search_of(prompt, params, 3, eos), logits_of(model), prompt)
    assert_same(ours, generate(model, prompt, params, 3, eos))
    assert all(len(h.tokens) > min_tokens for h in ours)


def test_ignored_end_tokens_end_nothing_and_stop_tokens_do(
    models: list[LlamaForCausalLM],
) -> None:
    prompt = a_prompt(3)
    plain = SamplingParams(max_tokens=15, do_sample=False, num_beams=3)
    params = replace(plain, ignore_eos=True, stop_token_ids=(5, 6, 7))
    for model in models:
        ours = run(search_of(prompt, params, 3, (2, 9)), logits_of(model), prompt)
        assert_same(ours, generate(model, prompt, plain, 3, (5, 6, 7)))


def test_a_stop_string_ends_a_hypothesis_as_stopping_criteria_do(
    models: list[LlamaForCausalLM],
) -> None:
    """Here the "string" is a token out of each of two sets, one after the other."""
    prompt = a_prompt(4)
    params = SamplingParams(max_tokens=12, do_sample=False, num_beams=3)

    def ends(tokens: tuple[int, ...]) -> bool:
        return len(tokens) > 1 and tokens[-2] < 16 and tokens[-1] > 16

    def criterion(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([ends(tuple(row[len(prompt) :])) for row in ids.tolist()])

    stopped = 0
    for model in models:
        ours = run(search_of(prompt, params, 3, (2,), ends=ends), logits_of(model), prompt)
        theirs = generate(model, prompt, params, 3, (2,), [criterion])
        for hypothesis, other in zip(ours, theirs, strict=True):
            assert other.tokens[: len(hypothesis.tokens)] == hypothesis.tokens
            assert hypothesis.score == pytest.approx(other.score, rel=1e-4)
            assert not any(ends(hypothesis.tokens[:i]) for i in range(len(hypothesis.tokens)))
            if ends(hypothesis.tokens):
                stopped += 1
                assert hypothesis.reason is FinishReason.STOP
    assert stopped > 3


# ---- beam sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "warpers",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 12},
        {"top_p": 0.9},
        {"min_p": 0.02, "repetition_penalty": 1.2},
        {"temperature": 1.5, "top_k": 15, "top_p": 0.95, "min_p": 0.01},
    ],
)
@pytest.mark.parametrize("eos", [(), (2,), (2, 5, 9)])
def test_with_the_same_candidates_drawn_beam_sampling_equals_generate(
    models: list[LlamaForCausalLM],
    monkeypatch: pytest.MonkeyPatch,
    warpers: dict[str, Any],
    eos: tuple[int, ...],
) -> None:
    monkeypatch.setattr(beams, "draw", draw_as_transformers)
    seed = case(eos, warpers)
    prompt, model = a_prompt(seed % 1000), models[seed % len(models)]
    params = SamplingParams(max_tokens=12, num_beams=DRAWN_BEAMS, seed=seed, **warpers)
    ours = run(search_of(prompt, params, 2, eos), logits_of(model), prompt)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        assert_same(ours, generate(model, prompt, params, 2, eos))


DRAWN_BEAMS = 3


def draw_as_transformers(totals: torch.Tensor, wanted: int, generator: torch.Generator) -> Any:
    """Which has as many rows as beams from the start."""
    rows = torch.full((DRAWN_BEAMS, totals.shape[-1]), -torch.inf)
    rows[: len(totals)] = totals
    return torch.multinomial(rows.flatten().softmax(-1), wanted, generator=generator)


@pytest.mark.parametrize("others", [0, 3000])
@pytest.mark.parametrize("shares", [[0.1, 0.2, 0.3, 0.4], [0.97, 0.0, 0.01, 0.02]])
def test_draws_without_replacement_have_their_exact_distribution(
    shares: list[float], others: int
) -> None:
    """`others`: so many candidates besides that have no chance."""
    generator = torch.Generator().manual_seed(1)
    totals = torch.full((2, 2 + others), -1100.0)
    totals[:, :2] = torch.tensor(shares).log().view(2, 2) - 1000
    rounds = 2000
    found = Counter(tuple(draw(totals, 2, generator).tolist()) for _ in range(rounds))
    places = [0, 1, 2 + others, 3 + others]
    for first, second in permutations(range(4), 2):
        exact = shares[first] * shares[second] / (1 - shares[first])
        assert found[places[first], places[second]] / rounds == pytest.approx(
            exact, abs=4 * deviation(exact, rounds)
        )


def deviation(share: float, rounds: int) -> float:
    return math.sqrt(share * (1 - share) / rounds)


def test_beam_sampling_has_its_exact_distribution() -> None:
    """Five tokens, two beams, two tokens long: all that can happen, with its probability."""
    table = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    scores = table.log_softmax(-1).tolist()
    exact: Counter[tuple[int, ...]] = Counter()
    for missing in range(5):  # four of the five are drawn first, and the best two go on
        others = [token for token in range(5) if token != missing]
        share = sum(chance_of(order, scores[5]) for order in permutations(others))
        live = sorted(others, key=lambda token: -scores[5][token])[:2]
        totals = {(a, b): scores[5][a] + scores[a][b] for a, b in product(live, range(5))}
        for pair in permutations(totals, 2):
            exact[max(pair, key=totals.__getitem__)] += share * chance_of(pair, totals)
    assert sum(exact.values()) == pytest.approx(1)

    def logits(rows: list[list[int]]) -> torch.Tensor:
        return table[[row[-1] if len(row) > 1 else 5 for row in rows]]

    rounds = 1000
    params = SamplingParams(max_tokens=2, num_beams=2)
    found = Counter(
        run(search_of([0], replace(params, seed=seed), vocab_size=5), logits, [0])[0].tokens
        for seed in range(rounds)
    )
    for answer, share in exact.items():
        assert found[answer] / rounds == pytest.approx(share, abs=4 * deviation(share, rounds))


def chance_of(order: Any, scores: Any) -> float:
    """That candidates are drawn in this order, out of all that have a score."""
    known = scores.values() if isinstance(scores, dict) else scores
    left, chance = sum(map(math.exp, known)), 1.0
    for candidate in order:
        chance *= math.exp(scores[candidate]) / left
        left -= math.exp(scores[candidate])
    return chance


def test_a_seed_gives_the_same_answer_and_leaves_the_global_random_state_alone(
    models: list[LlamaForCausalLM],
) -> None:
    prompt, logits = a_prompt(3), logits_of(models[0])
    before = torch.get_rng_state()

    def sampled(seed: int | None, n: int = 3) -> list[Hypothesis]:
        params = SamplingParams(max_tokens=8, num_beams=3, temperature=1.5, seed=seed)
        return run(search_of(prompt, params, n), logits, prompt)

    assert sampled(7) == sampled(7)
    assert sampled(-(2**63)) == sampled(-(2**63))
    assert len({sampled(None, 1)[0].tokens for _ in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), before)


# ---- at the limits -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(300))
def test_nothing_extreme_makes_a_search_fail(seed: int) -> None:
    """`run` refuses any score that is not finite."""
    chance = random.Random(seed)
    vocab_size = chance.choice([1, 2, 3, 6, 300])
    beams = chance.randint(2, 5)
    params = SamplingParams(
        max_tokens=chance.randint(1, 8),
        do_sample=chance.random() < 0.6,
        num_beams=beams,
        seed=seed,
        temperature=chance.choice([1e-45, 1e-30, 0.3, 1.0, 1e4]),
        top_k=chance.choice([0, 1, 3, 1000]),
        top_p=chance.choice([1e-9, 0.5, 0.9999999, 1.0]),
        min_p=chance.choice([0.0, 1e-9, 0.1, 1.0]),
        repetition_penalty=chance.choice([1.0, 1e4, 1e-4, 1e30]),
        frequency_penalty=chance.choice([0.0, 2.0, -2.0, 1e30]),
        presence_penalty=chance.choice([0.0, 2.0, -1e30]),
        logit_bias=chance.choice([(), ((0, -100.0),), ((0, 1e38),)]),
        length_penalty=chance.choice([0.0, 1.0, -1e4, 1e4]),
        early_stopping=chance.choice([True, False, None]),
        min_tokens=chance.choice([0, 3, 100]),
        stop_token_ids=chance.choice([(), (0, 1), (5, 10**6, -1)]),
    )
    generator = torch.Generator().manual_seed(seed)

    def logits(rows: list[list[int]]) -> torch.Tensor:
        scale = chance.choice([0.0, 1.0, 3e4, 1e38])
        dtype, limit = chance.choice([(torch.float32, 3e38), (torch.float16, 65504.0)])
        drawn = torch.randn(len(rows), vocab_size, generator=generator) * scale
        drawn = drawn.clamp(-limit, limit).to(dtype)
        cut_off = torch.rand(drawn.shape, generator=generator) < chance.choice([0.0, 0.9])
        cut_off[:, chance.randrange(vocab_size)] = False
        return drawn.masked_fill(cut_off, -torch.inf)

    def ends(tokens: tuple[int, ...]) -> bool:
        return seed % 3 == 0 and sum(tokens) % 2 == 0

    n = chance.randint(1, beams)
    search = search_of([0], params, n, (vocab_size - 1,), vocab_size, ends=ends)
    best = run(search, logits, [0])
    assert len(best) == n
    assert all(1 <= len(hypothesis.tokens) <= params.max_tokens for hypothesis in best)
    assert [h.score for h in best] == sorted((h.score for h in best), reverse=True)


def test_where_there_are_fewer_answers_than_asked_for_the_last_is_told_again() -> None:
    params = SamplingParams(max_tokens=3, do_sample=False, num_beams=3)
    search = search_of([0], params, 3, vocab_size=2, ends=lambda tokens: True)
    best = run(search, lambda rows: torch.tensor([[0.0, 1.0]] * len(rows)), [0])
    assert [hypothesis.tokens for hypothesis in best] == [(1,), (0,), (0,)]


# ---- what is settled -----------------------------------------------------------------------------


def test_what_all_beams_share_is_settled_before_the_end() -> None:
    def logits(rows: list[list[int]]) -> torch.Tensor:
        """After each token the next higher one, the more surely the earlier."""
        steps = torch.arange(9.0) - torch.tensor([[row[-1] + 1] for row in rows])
        return -steps.square() * (9 - len(rows[0]))

    params = SamplingParams(max_tokens=7, do_sample=False, num_beams=3)
    search = search_of([0], params, vocab_size=9)
    rows, seen = [[0]], []
    while rows:
        live = search.step(logits(rows))
        rows = [[*rows[beam.parent], beam.tokens[-1]] for beam in live]
        seen.append(len(search.settled()))
    assert search.settled() == (1, 2, 3, 4, 5, 6, 7)
    assert sum(0 < count < 7 for count in seen) >= 3


def test_of_several_answers_nothing_is_settled() -> None:
    params = SamplingParams(max_tokens=4, do_sample=False, num_beams=2)
    search = search_of([0], params, 2, vocab_size=3)
    run(search, lambda rows: torch.tensor([[9.0, 0.0, 1.0]] * len(rows)), [0])
    assert search.settled() == ()
