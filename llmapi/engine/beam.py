"""Beam search through transformers' `generate`, between two steps.

While it runs, everyone else waits: it stalls the batch. (Beams inside the batch, sharing the
prompt's cache, come with the fused decoder.)
"""

import secrets
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.messages import FinishReason, SamplingParams
from llmapi.engine.requests import ends_of
from llmapi.engine.runner import Runner

LOWEST_SCORE = -1e9
"""Log probability of what the warpers cut off. Not -inf: a beam that must take such a token (fewer
candidates than beams) would carry -inf and then NaN into every later step."""


class UnusableLogits(Exception):
    """The model gave NaN or infinity."""


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """One prompt of a request with `num_beams` > 1, and the `n` choices wanted of it."""

    request_id: str
    first_index: int
    """Index of its first choice in the request."""
    prompt: tuple[int, ...]
    params: SamplingParams
    n: int


@dataclass(frozen=True, slots=True)
class BeamChoice:
    index: int
    text: str
    tokens: int
    reason: FinishReason


def run_beam_search(
    search: BeamSearch,
    runner: Runner,
    eos: ListOf[int],
    detokenizer: Callable[[], Detokenizer],
    aborted: Callable[[], bool],
) -> list[BeamChoice]:
    """The `n` best beams, best first; empty if `aborted()` turned true on the way.

    `detokenizer()` makes a new one for each choice. The global random state is left as it was.
    Raises UnusableLogits.
    """
    params = search.params
    ends = ends_of(params, eos)
    devices = [runner.device] if runner.device.type == "cuda" else []
    stop = _StopWhenAborted(aborted)
    with torch.random.fork_rng(devices=devices), runner.own_attention() as model:
        seed = secrets.randbits(63) if params.seed is None else params.seed
        torch.manual_seed(seed % 2**63)
        prompt = torch.tensor([search.prompt], device=runner.device)
        with torch.inference_mode():
            output: Tensor = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=_generation_config(params, search.n, sorted(ends)),
                logits_processor=LogitsProcessorList(
                    [
                        _AnswerPenalties(params, prompt.shape[-1]),
                        _FiniteScores(params, len(ends) + 1),
                    ]
                ),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
    if aborted():
        return []
    answers = output[:, len(search.prompt) :].tolist()
    return [
        _choice(search.first_index + i, answer, ends, detokenizer())
        for i, answer in enumerate(answers)
    ]


def _samples(params: SamplingParams) -> bool:
    return params.do_sample and params.temperature > 0


def _generation_config(params: SamplingParams, n: int, eos: ListOf[int]) -> GenerationConfig:
    """Every value is given, so that nothing of the model's own or of the library's defaults slips
    in.

    The warpers are neutral here: `_FiniteScores` applies them, because it must have the last word.
    """
    warpers: dict[str, Any] = {}
    if _samples(params):
        warpers = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=params.max_tokens,
        num_beams=params.num_beams,
        num_return_sequences=n,
        do_sample=_samples(params),
        repetition_penalty=params.repetition_penalty,
        sequence_bias={(token,): bias for token, bias in params.logit_bias} or None,
        min_new_tokens=params.min_tokens or None,
        length_penalty=params.length_penalty,
        early_stopping="never" if params.early_stopping is None else params.early_stopping,
        eos_token_id=list(eos) or None,
        pad_token_id=eos[0] if eos else 0,
        use_cache=True,
        **warpers,
    )


def _choice(
    index: int, answer: list[int], eos: frozenset[int], detokenizer: Detokenizer
) -> BeamChoice:
    """Text up to the first end token or stop string; `answer` may be padded after its end."""
    text = ""
    for count, token in enumerate(answer, start=1):
        if token in eos:
            return BeamChoice(index, text + detokenizer.finish(), count, FinishReason.STOP)
        text += detokenizer.push(token)
        if detokenizer.stopped:
            return BeamChoice(index, text, count, FinishReason.STOP)
    text += detokenizer.finish()
    reason = FinishReason.STOP if detokenizer.stopped else FinishReason.LENGTH
    return BeamChoice(index, text, len(answer), reason)


class _StopWhenAborted(StoppingCriteria):
    def __init__(self, aborted: Callable[[], bool]) -> None:
        self._aborted = aborted

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._aborted(), device=input_ids.device)


class _AnswerPenalties(LogitsProcessor):
    """OpenAI's presence and frequency penalty, which transformers does not have."""

    def __init__(self, params: SamplingParams, prompt_tokens: int) -> None:
        self._presence, self._frequency = params.presence_penalty, params.frequency_penalty
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if not (self._presence or self._frequency):
            return scores
        answers = input_ids[:, self._prompt_tokens :]
        counts = torch.zeros_like(scores).scatter_add_(
            1, answers, torch.ones_like(answers, dtype=scores.dtype)
        )
        return scores - self._frequency * counts - self._presence * (counts > 0)


class _FiniteScores(LogitsProcessor):
    """Refuses broken scores, applies transformers' own warpers, and leaves no infinity behind."""

    def __init__(self, params: SamplingParams, keep: int) -> None:
        """`keep`: candidates that the warpers must leave to each beam, as transformers counts
        them."""
        self._warpers: list[Any] = []
        if not _samples(params):
            return
        if params.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(params.temperature))
        if params.top_k > 0:
            self._warpers.append(TopKLogitsWarper(params.top_k, min_tokens_to_keep=keep))
        if params.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(params.top_p, min_tokens_to_keep=keep))
        if params.min_p > 0:
            self._warpers.append(MinPLogitsWarper(params.min_p, min_tokens_to_keep=keep))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if not bool(scores.amax(-1).isfinite().all()):
            raise UnusableLogits
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        return scores.clamp_min(LOWEST_SCORE)
