"""Log probabilities of the next token of each live beam, as transformers defines them."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

from llmapi.engine.logprobs import BrokenNumbers
from llmapi.engine.messages import SamplingParams

LARGEST_SCORE = 1e9
"""Penalties and biases move no token further than this from 0, one way or the other, so that no row
is ever -inf as a whole, and no sum over an answer infinite."""

LOWEST_TEMPERATURE = 1e-20
"""Near enough to 0 that nothing is left to chance; scores are divided by it."""

FIRST_WIDTH = 256
"""Candidates looked at before a nucleus is known to be wider: sorting a vocabulary takes longer."""


class BeamScores:
    """What the request's processors and warpers make of the logits of one search.

    As in transformers' beam search they work on log probabilities, in float32, and what comes out
    need not sum up to 1. -inf is a token that cannot be taken; each row has others.
    """

    def __init__(
        self,
        prompt: Collection[int],
        params: SamplingParams,
        *,
        end_tokens: Collection[int],
        keep: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        """`keep`: candidates that the warpers leave to each beam at least."""
        self._params = params
        self._keep = min(keep, vocab_size)
        known = [token for token in end_tokens if 0 <= token < vocab_size]
        self._end_tokens = torch.tensor(known, dtype=torch.long, device=device)
        self._penalises = bool(
            params.repetition_penalty != 1.0
            or params.frequency_penalty
            or params.presence_penalty
            or params.logit_bias
        )
        width = vocab_size if self._penalises else 0  # a search that waits should cost nothing
        self._bias = torch.zeros(width, device=device)
        self._in_prompt = torch.zeros(width, dtype=torch.bool, device=device)
        self._counts = torch.zeros(1, width, device=device)
        """`[live beams, vocab]`: how often each answer has each token."""
        if self._penalises:
            self._in_prompt[torch.tensor(list(prompt), dtype=torch.long, device=device)] = True
            for token, bias in params.logit_bias:
                self._bias[token] += bias

    def of(self, logits: Tensor, length: int) -> Tensor:
        """`[live beams, vocab]` both; each answer has `length` tokens so far.

        Raises BrokenNumbers.
        """
        logits = logits.float()
        best = logits.amax(-1, keepdim=True)
        if not best.isfinite().all():  # a NaN in a row is its maximum
            raise BrokenNumbers
        shifted = logits - best
        scores = shifted - shifted.logsumexp(-1, keepdim=True)
        if self._penalises:
            penalised = self._penalise(scores).clamp(-LARGEST_SCORE, LARGEST_SCORE)
            scores = penalised.masked_fill(scores == -torch.inf, -torch.inf)
        if length < self._params.min_tokens:
            scores = self._forbid_the_end(scores)
        return self._warp(scores) if samples(self._params) else scores

    def follow(self, parents: list[int], tokens: list[int]) -> None:
        """The live beams are now these rows of the last step, each with its new token."""
        if not self._penalises:
            return
        rows = torch.arange(len(parents), device=self._counts.device)
        self._counts = self._counts[torch.tensor(parents, dtype=torch.long, device=rows.device)]
        self._counts[rows, torch.tensor(tokens, dtype=torch.long, device=rows.device)] += 1

    def _penalise(self, scores: Tensor) -> Tensor:
        """Bias, repetition penalty over prompt and answer, then OpenAI's two over the answer."""
        params = self._params
        scores = scores + self._bias
        if params.repetition_penalty != 1.0:
            penalty = params.repetition_penalty
            penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores = torch.where(self._in_prompt | (self._counts > 0), penalised, scores)
        if params.frequency_penalty or params.presence_penalty:
            scores = scores - params.frequency_penalty * self._counts
            scores = scores - params.presence_penalty * (self._counts > 0).float()
        return scores

    def _forbid_the_end(self, scores: Tensor) -> Tensor:
        """Except where the model leaves nothing else: a beam must go on somehow."""
        going = scores.index_fill(-1, self._end_tokens, -torch.inf)
        return torch.where(going.amax(-1, keepdim=True) > -torch.inf, going, scores)

    def _warp(self, scores: Tensor) -> Tensor:
        """Temperature, then -inf below the edge."""
        params, vocab_size = self._params, scores.shape[-1]
        scores = scores / max(params.temperature, LOWEST_TEMPERATURE)
        if not params.top_k and params.top_p >= 1.0 and params.min_p <= 0.0:
            return scores
        width = max(params.top_k or FIRST_WIDTH, self._keep)
        return scores.masked_fill(scores < self._edge(scores, min(width, vocab_size)), -torch.inf)

    def _edge(self, scores: Tensor, width: int) -> Tensor:
        """The lowest score that top-k, top-p and min-p leave in each row, `[rows, 1]`, found among
        the `width` best. Equal scores at the edge all stay."""
        params, vocab_size = self._params, scores.shape[-1]
        best = scores.topk(width).values
        edge = best[:, :1] + math.log(params.min_p) if params.min_p > 0.0 else best[:, -1:]
        if params.top_p < 1.0:
            # The nucleus is measured against what top-k left.
            total = (best if params.top_k else scores).logsumexp(-1, keepdim=True)
            share = (best - total).exp()
            inside = share.cumsum(-1) - share < params.top_p
            if inside[:, -1].any() and not params.top_k and width < vocab_size:
                return self._edge(scores, min(width * 16, vocab_size))
            last = inside.sum(-1, keepdim=True).clamp_min(1) - 1
            edge = torch.maximum(edge, best.gather(-1, last))
        edge = torch.minimum(edge, best[:, self._keep - 1, None])
        return torch.maximum(edge, best[:, -1:]) if params.top_k else edge


def samples(params: SamplingParams) -> bool:
    """Whether beams are drawn; otherwise the best are taken, and nothing is warped."""
    return params.do_sample and params.temperature > 0
