"""Each parameter against transformers' own processors; draws against their distribution."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmapi.engine.messages import GenerateRequest, SamplingParams
from llmapi.engine.penalties import penalise, penalties_of
from llmapi.engine.requests import sequences_of
from llmapi.engine.sampler import Sampler, invert, uniform, warp
from llmapi.engine.sequence import Sequence

VOCAB = 3000


def logits(rows: int, *, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCAB, generator=generator) * scale


def sequence(prompt: list[int], answer: tuple[int, ...] = (), **params: object) -> Sequence:
    values = {"max_tokens": 10} | params
    request = GenerateRequest("r", "u", (tuple(prompt),), SamplingParams(**values))
    (made,) = sequences_of(request, eos=[2])
    made.tokens += answer
    return made


def penalised(scores: torch.Tensor, *sequences: Sequence) -> torch.Tensor:
    return penalise(scores, sequences, [penalties_of(s) for s in sequences])


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 2, 40, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 0.5, 1.0])
def test_temperature_top_k_top_p_and_min_p_equal_transformers(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    scores = logits(4)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    expected = warpers(torch.zeros(4, 1, dtype=torch.long), scores.clone())
    ours = warp(scores, [temperature] * 4, [top_k] * 4, [top_p] * 4, [min_p] * 4)
    assert torch.equal(ours.isinf(), expected.isinf())
    assert torch.allclose(ours.softmax(-1), expected.softmax(-1), atol=1e-6)


def test_rows_with_different_parameters_do_not_touch_each_other() -> None:
    scores = logits(6)
    temperature = [0.5, 1.0, 2.0, 1.0, 0.7, 1.3]
    top_k = [0, 40, 0, 1, 7, 0]
    top_p = [0.9, 1.0, 0.9999, 0.5, 0.8, 1.0]
    min_p = [0.0, 0.3, 0.0, 0.01, 1.0, 0.0]
    together = warp(scores, temperature, top_k, top_p, min_p)
    for row in range(6):
        own = ([values[row]] for values in (temperature, top_k, top_p, min_p))
        alone = warp(scores[row : row + 1], *own)
        assert torch.equal(together[row].isinf(), alone[0].isinf())
        assert torch.equal(together[row], alone[0])


def test_a_nucleus_wider_than_the_first_look_is_found_whole() -> None:
    flat = torch.linspace(0, 1e-3, VOCAB)[None]
    kept = warp(flat, [1.0], [0], [0.5], [0.0]).isfinite().sum()
    assert abs(int(kept) - VOCAB // 2) <= 2


@pytest.mark.parametrize("penalty", [0.7, 1.1, 2.0])
def test_repetition_penalty_equals_transformers_over_prompt_and_answer(penalty: float) -> None:
    sampler = Sampler()
    plain = sequence([1])
    repeats = sequence([5, 9, 9, 2999], repetition_penalty=penalty, do_sample=False)
    (_, drawn) = sampler.sample(logits(2), [plain, repeats])
    repeats.tokens.append(drawn)
    scores = logits(2, seed=1)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([repeats.tokens]), scores[1:].clone())
    ours = sampler._penalise(scores, [plain, repeats])
    assert torch.equal(ours[0], scores[0])
    assert torch.equal(ours[1], expected[0])


@pytest.mark.parametrize(("presence", "frequency"), [(0.5, 0.0), (0.0, 1.5), (-2.0, 0.7)])
def test_presence_and_frequency_penalty_are_openais_formula_over_the_answer(
    presence: float, frequency: float
) -> None:
    answer = (7, 9, 7, 7)
    s = sequence([5, 9, 11], answer, presence_penalty=presence, frequency_penalty=frequency)
    scores = logits(1)
    ours = penalised(scores, s)
    expected = scores[0].clone()
    for token in range(VOCAB):
        count = answer.count(token)
        expected[token] -= count * frequency + (count > 0) * presence
    assert torch.allclose(ours[0], expected)
    assert ours[0, 5] == scores[0, 5], "the prompt's tokens are not punished"


def test_logit_bias_equals_transformers() -> None:
    bias = ((3, 5.0), (2999, -100.0), (17, 0.25))
    scores = logits(1)
    processor = SequenceBiasLogitsProcessor({(token,): value for token, value in bias})
    expected = processor(torch.tensor([[1, 2]]), scores.clone())
    assert torch.equal(penalised(scores, sequence([1], logit_bias=bias)), expected)


def test_bias_comes_first_and_then_the_penalties_as_in_transformers() -> None:
    prompt, bias = [5, 9, 9], {(5,): 4.0, (9,): -3.0, (8,): 1.0}
    processors = LogitsProcessorList(
        [SequenceBiasLogitsProcessor(bias), RepetitionPenaltyLogitsProcessor(1.3)]
    )
    scores = logits(1)
    flat = tuple((token, value) for (token,), value in bias.items())
    ours = penalised(scores, sequence(prompt, logit_bias=flat, repetition_penalty=1.3))
    assert torch.equal(ours, processors(torch.tensor([prompt]), scores.clone()))


@pytest.mark.parametrize("drawn", [0, 2, 3, 4])
def test_min_tokens_equals_transformers_and_covers_stop_token_ids(drawn: int) -> None:
    s = sequence([1], (8,) * drawn, min_tokens=3, stop_token_ids=(40, 41))
    scores = logits(1)
    processor = MinNewTokensLengthLogitsProcessor(1, 3, [2, 40, 41])
    expected = processor(torch.tensor([s.tokens]), scores.clone())
    ours = penalised(scores, s)
    assert torch.equal(ours.softmax(-1), expected.softmax(-1))
    assert bool((ours[0, [2, 40, 41]].softmax(-1) > 0).all())
    assert bool(torch.equal(ours, scores)) == (drawn >= 3)


def test_a_row_in_which_only_end_tokens_are_left_still_draws_one() -> None:
    scores = torch.full((1, 4), -torch.inf)
    scores[0, 2] = 1.0
    for params in ({"do_sample": False}, {"seed": 1, "top_k": 2, "top_p": 0.5, "min_p": 0.5}):
        assert Sampler().sample(scores, [sequence([1], min_tokens=3, **params)]) == [2]


def test_every_parameter_mixed_in_one_batch_touches_no_other_row() -> None:
    rows: list[dict[str, object]] = [
        {"do_sample": False},
        {"repetition_penalty": 1.4, "seed": 1},
        {"presence_penalty": 1.0, "seed": 2, "top_k": 9},
        {"logit_bias": ((5, 100.0),), "seed": 3},
        {"min_tokens": 5, "min_p": 0.2, "seed": 4},
        {"frequency_penalty": 2.0, "do_sample": False},
        {"seed": 5, "top_p": 0.7},
    ]

    def made(place: int) -> Sequence:
        return sequence([5, 6, place], (7, 7, 8), **rows[place])

    scores = logits(len(rows))
    together = Sampler().sample(scores, [made(place) for place in range(len(rows))])
    alone = [
        Sampler().sample(scores[place : place + 1], [made(place)])[0] for place in range(len(rows))
    ]
    assert together == alone
    assert together[3] == 5


def test_a_state_made_again_from_the_tokens_is_the_state_that_grew() -> None:
    params = {
        "seed": 3,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.3,
        "logit_bias": ((9, 1.0),),
    }
    grown, sampler = sequence([5, 9, 9], **params), Sampler()
    for step in range(12):
        scores = logits(1, seed=step)
        fresh = sequence([5, 9, 9], tuple(grown.tokens[3:]), **params)
        (drawn,) = sampler.sample(scores, [grown])
        assert Sampler().sample(scores, [fresh]) == [drawn]
        assert torch.equal(sampler._penalise(scores, [grown]), penalised(scores, fresh))
        assert drawn is not None
        grown.tokens.append(drawn)


def test_uniform_numbers_are_uniform_and_differ_by_seed_and_place() -> None:
    numbers = torch.tensor(
        [[uniform(seed, place) for place in range(100)] for seed in range(100)], dtype=torch.float64
    )
    assert (torch.histc(numbers, 10, 0, 1) / 1e4 - 0.1).abs().max() < 0.015
    assert abs(float(numbers.mean()) - 0.5) < 0.01
    assert numbers.unique().numel() == 10_000
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)


def test_greedy_is_the_best_token_also_beside_sampling_rows() -> None:
    sampler = Sampler()
    sequences = [sequence([1], do_sample=False), sequence([1]), sequence([1], temperature=0.0)]
    scores = logits(3)
    drawn = sampler.sample(scores, sequences)
    assert drawn[0] == int(scores[0].argmax())
    assert drawn[2] == int(scores[2].argmax())


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler()
    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf, 0.5, 0.5, -1.0, 1.5]])
    s = sequence([1], seed=3)
    counts = torch.zeros(8)
    for _ in range(4000):
        (drawn,) = sampler.sample(scores, [s])
        assert drawn is not None
        counts[drawn] += 1
        s.tokens.append(drawn)
    assert torch.allclose(counts / 4000, scores[0].softmax(-1), atol=0.03)
    assert counts[3] == 0


def test_one_uniform_number_per_token_whatever_the_company() -> None:
    drawn = []
    for company in (0, 5):
        sampler = Sampler()
        mine = sequence([1], seed=11, top_p=0.9)
        rows = [sequence([1], seed=50 + i, top_k=3) for i in range(company)] + [mine]
        steps = [torch.cat([logits(company, seed=99), logits(1, seed=i)]) for i in range(20)]
        for step in steps:
            tokens = sampler.sample(step, rows)
            for s, token in zip(rows, tokens, strict=True):
                s.tokens.append(token)
        drawn.append(mine.tokens)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_are_told_apart_from_good_ones(bad: float) -> None:
    sampler = Sampler()
    sequences = [sequence([1]), sequence([1], do_sample=False), sequence([1], seed=1)]
    scores = logits(3)
    scores[0, 17] = bad
    drawn = sampler.sample(scores, sequences)
    assert drawn[0] is None
    assert drawn[1] == int(scores[1].argmax())
    assert drawn[2] is not None


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-10, 1e4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
def test_extreme_temperatures_never_give_nan(temperature: float, scale: float) -> None:
    scores = logits(2, scale=scale)
    probabilities = warp(scores, [temperature] * 2, [0, 40], [1.0, 0.9], [0.0, 0.1]).softmax(-1)
    assert probabilities.isfinite().all()
    assert torch.allclose(probabilities.sum(-1), torch.ones(2))


def test_inversion_never_picks_an_impossible_token() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    almost_one = 1 - 2**-53
    for number, expected in ((0.0, 1), (0.49, 1), (0.5, 3), (almost_one, 3)):
        assert int(invert(probabilities, torch.tensor([number], dtype=torch.float64))) == expected
