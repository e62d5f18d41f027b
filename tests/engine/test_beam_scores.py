"""What becomes of logits before beams are chosen by them."""

import math
from typing import Any

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmapi.engine.beam_scores import BeamScores
from llmapi.engine.logprobs import BrokenNumbers
from llmapi.engine.messages import SamplingParams


def scores_of(params: SamplingParams, vocab_size: int, keep: int = 2) -> BeamScores:
    return BeamScores(
        [1, 1, 0],
        params,
        end_tokens=(0,),
        keep=keep,
        vocab_size=vocab_size,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("keep", [2, 6])
@pytest.mark.parametrize("scale", [0.2, 2.0, 10.0])
@pytest.mark.parametrize(
    "warpers",
    [
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"top_p": 1e-6},
        {"min_p": 0.5},
        {"top_k": 1},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.05, "temperature": 0.7},
        {"top_p": 0.9, "min_p": 1e-4, "temperature": 3.0},
    ],
)
def test_warpers_equal_those_of_transformers(
    warpers: dict[str, Any], scale: float, keep: int
) -> None:
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * scale
    params = SamplingParams(max_tokens=5, num_beams=3, **warpers)
    expected = logits.log_softmax(-1)
    theirs: list[Any] = [TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        theirs.append(TopKLogitsWarper(params.top_k, min_tokens_to_keep=keep))
    theirs.append(TopPLogitsWarper(params.top_p, min_tokens_to_keep=keep))
    theirs.append(MinPLogitsWarper(params.min_p, min_tokens_to_keep=keep))
    for warper in theirs:
        expected = warper(None, expected)
    ours = scores_of(params, 5000, keep).of(logits, 0)
    torch.testing.assert_close(ours, expected)


def test_penalties_and_bias_follow_each_beam() -> None:
    params = SamplingParams(
        max_tokens=9,
        do_sample=False,
        num_beams=2,
        frequency_penalty=0.5,
        presence_penalty=0.25,
        logit_bias=((4, 2.0), (6, -100.0)),
    )
    scores = scores_of(params, 7)
    scores.follow([0, 0], [3, 4])
    scores.follow([0, 0], [3, 5])
    logits = torch.randn(2, 7)
    change = torch.tensor([[0, 0, 0, -1.25, 2.0, 0, -100.0], [0, 0, 0, -0.75, 2.0, -0.75, -100.0]])
    torch.testing.assert_close(scores.of(logits, 2), logits.log_softmax(-1) + change)


def test_no_end_before_min_tokens_unless_there_is_nothing_else() -> None:
    scores = scores_of(SamplingParams(max_tokens=9, min_tokens=3, do_sample=False), 3)
    logits = torch.tensor([[5.0, 1.0, 1.0], [5.0, -torch.inf, -torch.inf]])
    assert scores.of(logits, 2)[:, 0].tolist() == [-math.inf, 0]
    assert scores.of(logits, 3).isfinite().tolist() == [[True] * 3, [True, False, False]]


@pytest.mark.parametrize("broken", [[0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_broken_logits_are_refused(broken: list[float]) -> None:
    scores = scores_of(SamplingParams(max_tokens=9), vocab_size=2)
    with pytest.raises(BrokenNumbers):
        scores.of(torch.tensor([[0.0, 1.0], broken]), 0)
