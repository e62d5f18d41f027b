"""Each parameter against transformers' own processors; draws against their distribution."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmapi.engine.messages import SamplingParams
from llmapi.engine.sampler import Sampler, invert, warp
from llmapi.engine.sequence import Sequence

CPU = torch.device("cpu")
VOCAB = 3000


def logits(rows: int, *, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCAB, generator=generator) * scale


def sequence(prompt: list[int], **params: object) -> Sequence:
    values = {"max_tokens": 10} | params
    return Sequence("r", 0, "u", len(prompt), prompt, SamplingParams(**values))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 2, 40, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.9, 0.3, 1e-6])
def test_temperature_top_k_and_top_p_equal_transformers(
    temperature: float, top_k: int, top_p: float
) -> None:
    scores = logits(4)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.zeros(4, 1, dtype=torch.long), scores.clone())
    ours = warp(scores, [temperature] * 4, [top_k] * 4, [top_p] * 4)
    assert torch.equal(ours.isinf(), expected.isinf())
    assert torch.allclose(ours.softmax(-1), expected.softmax(-1), atol=1e-6)


def test_rows_with_different_parameters_do_not_touch_each_other() -> None:
    scores = logits(6)
    temperature = [0.5, 1.0, 2.0, 1.0, 0.7, 1.3]
    top_k = [0, 40, 0, 1, 7, 0]
    top_p = [0.9, 1.0, 0.9999, 0.5, 0.8, 1.0]
    together = warp(scores, temperature, top_k, top_p)
    for row in range(6):
        alone = warp(scores[row : row + 1], [temperature[row]], [top_k[row]], [top_p[row]])
        assert torch.equal(together[row].isinf(), alone[0].isinf())
        assert torch.equal(together[row], alone[0])


def test_a_nucleus_wider_than_the_first_look_is_found_whole() -> None:
    flat = torch.linspace(0, 1e-3, VOCAB)[None]
    kept = warp(flat, [1.0], [0], [0.5]).isfinite().sum()
    assert abs(int(kept) - VOCAB // 2) <= 2


@pytest.mark.parametrize("penalty", [0.7, 1.1, 2.0])
def test_repetition_penalty_equals_transformers_over_prompt_and_answer(penalty: float) -> None:
    sampler = Sampler(VOCAB, CPU)
    prompt = [5, 9, 9, 2999]
    plain, penalised = sequence([1]), sequence(prompt, repetition_penalty=penalty, do_sample=False)
    for s in (plain, penalised):
        sampler.add(s, s.params)
    scores = logits(2)
    (_, drawn) = sampler.sample(scores, [plain, penalised])
    prompt.append(drawn)
    scores = logits(2, seed=1)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([prompt]), scores[1:].clone())
    ours = sampler._penalise(scores, [plain, penalised])
    assert torch.equal(ours[0], scores[0])
    assert torch.allclose(ours[1], expected[0])


def test_greedy_is_the_best_token_also_beside_sampling_rows() -> None:
    sampler = Sampler(VOCAB, CPU)
    sequences = [sequence([1], do_sample=False), sequence([1]), sequence([1], temperature=0.0)]
    for s in sequences:
        sampler.add(s, s.params)
    scores = logits(3)
    drawn = sampler.sample(scores, sequences)
    assert drawn[0] == int(scores[0].argmax())
    assert drawn[2] == int(scores[2].argmax())


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler(8, CPU)
    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf, 0.5, 0.5, -1.0, 1.5]])
    s = sequence([1], seed=3)
    sampler.add(s, s.params)
    counts = torch.zeros(8)
    for _ in range(4000):
        counts[sampler.sample(scores, [s])[0]] += 1
    assert torch.allclose(counts / 4000, scores[0].softmax(-1), atol=0.03)
    assert counts[3] == 0


def test_one_uniform_number_per_token_whatever_the_company() -> None:
    drawn = []
    for company in (0, 5):
        sampler = Sampler(VOCAB, CPU)
        mine = sequence([1], seed=11, top_p=0.9)
        rows = [sequence([1], seed=50 + i, top_k=3) for i in range(company)] + [mine]
        for s in rows:
            sampler.add(s, s.params)
        steps = [torch.cat([logits(company, seed=99), logits(1, seed=i)]) for i in range(20)]
        drawn.append([sampler.sample(step, rows)[-1] for step in steps])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_are_told_apart_from_good_ones(bad: float) -> None:
    sampler = Sampler(VOCAB, CPU)
    sequences = [sequence([1]), sequence([1], do_sample=False), sequence([1], seed=1)]
    for s in sequences:
        sampler.add(s, s.params)
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
    probabilities = warp(scores, [temperature] * 2, [0, 40], [1.0, 0.9]).softmax(-1)
    assert probabilities.isfinite().all()
    assert torch.allclose(probabilities.sum(-1), torch.ones(2))


def test_inversion_never_picks_an_impossible_token() -> None:
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    almost_one = 1 - 2**-53
    for uniform, expected in ((0.0, 1), (0.49, 1), (0.5, 3), (almost_one, 3)):
        assert int(invert(probabilities, torch.tensor([uniform], dtype=torch.float64))) == expected
