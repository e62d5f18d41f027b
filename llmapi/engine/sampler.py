"""How the next tokens are drawn: one vectorised pass, each row by its own request's parameters."""

import secrets
from collections.abc import Sequence as ListOf
from dataclasses import dataclass

import torch
from torch import Tensor

from llmapi.engine.messages import SamplingParams
from llmapi.engine.sequence import Sequence

FIRST_WIDTH = 256
"""Candidates looked at before a nucleus is known to be wider. Sorting a whole vocabulary costs 40
times as much."""


@dataclass(slots=True)
class _RowState:
    generator: torch.Generator | None
    """None: greedy."""
    seen: Tensor | None
    """`[vocab]`, True for tokens of the prompt and the answer; None without a repetition
    penalty."""


class Sampler:
    """Draws one token per row, always in float32.

    Each sampled row draws **one** uniform number per token from its own generator and inverts its
    own cumulative distribution in the order of the vocabulary. So a seeded answer depends neither
    on the other rows nor on how near-equal candidates happen to be sorted.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._states: dict[Sequence, _RowState] = {}

    def add(self, sequence: Sequence, params: SamplingParams) -> None:
        generator = None
        if params.do_sample and params.temperature > 0:
            seed = secrets.randbits(63) if params.seed is None else params.seed
            generator = torch.Generator().manual_seed((seed + sequence.index) % 2**63)
        seen = None
        if params.repetition_penalty != 1.0:
            seen = torch.zeros(self._vocab_size, dtype=torch.bool, device=self._device)
            seen[torch.tensor(sequence.tokens, device=self._device)] = True
        self._states[sequence] = _RowState(generator, seen)

    def remove(self, sequence: Sequence) -> None:
        """Unknown sequences are ignored."""
        self._states.pop(sequence, None)

    def sample(self, logits: Tensor, sequences: ListOf[Sequence]) -> list[int | None]:
        """One token for each row of `logits` `[rows, vocab]`.

        None where the model gave no usable numbers: NaN, +inf, or nothing but -inf.
        """
        logits = logits.float()
        usable = logits.amax(-1).isfinite().tolist()  # a NaN in a row is its maximum
        rows = [row for row, good in enumerate(usable) if good]
        if len(rows) < len(usable):
            logits = logits[rows]
        chosen = [sequences[row] for row in rows]
        drawn = self._draw(self._penalise(logits, chosen), chosen) if rows else []
        for sequence, token in zip(chosen, drawn, strict=True):
            if (seen := self._states[sequence].seen) is not None:
                seen[token] = True
        tokens: list[int | None] = [None] * len(usable)
        for row, token in zip(rows, drawn, strict=True):
            tokens[row] = token
        return tokens

    def _penalise(self, logits: Tensor, sequences: list[Sequence]) -> Tensor:
        """Repetition penalty as transformers defines it, over prompt and answer."""
        seen = {
            row: state
            for row, s in enumerate(sequences)
            if (state := self._states[s].seen) is not None
        }
        if not seen:
            return logits
        rows = list(seen)
        penalty = torch.tensor(
            [[_params(sequences[row]).repetition_penalty] for row in rows], device=logits.device
        )
        before = logits[rows]
        after = torch.where(before < 0, before * penalty, before / penalty)
        logits = logits.clone()
        logits[rows] = torch.where(torch.stack(list(seen.values())), after, before)
        return logits

    def _draw(self, logits: Tensor, sequences: list[Sequence]) -> list[int]:
        states = [self._states[s] for s in sequences]
        greedy = [row for row, state in enumerate(states) if state.generator is None]
        random = [row for row, state in enumerate(states) if state.generator is not None]
        tokens = torch.empty(len(sequences), dtype=torch.long, device=logits.device)
        if greedy:
            tokens[greedy] = logits[greedy].argmax(-1)
        if random:
            params = [_params(sequences[row]) for row in random]
            uniforms = [
                torch.rand((), dtype=torch.float64, generator=states[row].generator)
                for row in random
            ]
            scores = warp(
                logits[random],
                [p.temperature for p in params],
                [p.top_k for p in params],
                [p.top_p for p in params],
            )
            tokens[random] = invert(scores.softmax(-1), torch.stack(uniforms).to(logits.device))
        return [int(token) for token in tokens.tolist()]


def _params(sequence: Sequence) -> SamplingParams:
    if sequence.params is None:
        raise TypeError("nothing is drawn from an input to embed")
    return sequence.params


def warp(logits: Tensor, temperature: list[float], top_k: list[int], top_p: list[float]) -> Tensor:
    """Temperature, then top-k, then top-p, in transformers' order; what is cut off becomes -inf.

    `[rows, vocab]` float32 in and out. Rows are shifted so that their maximum is 0, which changes
    no probability and keeps a tiny temperature from dividing infinity by infinity. Equal scores at
    the edge all stay.
    """
    heat = torch.tensor(temperature, dtype=torch.float32, device=logits.device)
    shifted = logits - logits.amax(-1, keepdim=True)
    # The smallest normal float32: a temperature below it would make 0 / 0 of the best token.
    scores = shifted / heat.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    if all(k == 0 for k in top_k) and all(p >= 1.0 for p in top_p):
        return scores
    lowest = _lowest_kept(scores, top_k, top_p, max([*top_k, FIRST_WIDTH]))
    return scores.masked_fill(scores < lowest, -torch.inf)


def _lowest_kept(scores: Tensor, top_k: list[int], top_p: list[float], width: int) -> Tensor:
    """The lowest score that stays in each row, `[rows, 1]`, found among the `width` best."""
    vocab = scores.shape[-1]
    width = min(width, vocab)
    best = scores.topk(width, dim=-1).values
    limit = torch.tensor([min(k, vocab) if k else vocab for k in top_k], device=scores.device)[
        :, None
    ]
    mass = torch.tensor(top_p, dtype=torch.float32, device=scores.device)[:, None]
    inside = torch.arange(width, device=scores.device) < limit
    # The nucleus is measured against what top-k left: all of the vocabulary where top-k is off.
    among_best = best.masked_fill(~inside, -torch.inf).logsumexp(-1, keepdim=True)
    total = torch.where(limit < vocab, among_best, scores.logsumexp(-1, keepdim=True))
    share = (best - total).exp()
    above = share.cumsum(-1) - share
    kept = inside & ((above < mass) | (mass >= 1.0))
    kept[:, 0] = True
    lowest = best.gather(-1, kept.sum(-1, keepdim=True) - 1)
    lowest = lowest.masked_fill((limit == vocab) & (mass >= 1.0), -torch.inf)
    open_rows = (
        (kept[:, -1:] & (limit > width) & (mass < 1.0)).flatten().nonzero().flatten().tolist()
    )
    if open_rows and width < vocab:
        lowest[open_rows] = _lowest_kept(
            scores[open_rows],
            [top_k[row] for row in open_rows],
            [top_p[row] for row in open_rows],
            width * 16,
        )
    return lowest


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which each row's cumulative distribution passes its uniform number in [0, 1).

    `[rows, vocab]` and float64 `[rows]` -> `[rows]`. A token of probability 0 is never chosen.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding must not carry the target up to the total, past the last token that has a share.
    target = torch.minimum(
        uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    return torch.searchsorted(cumulative, target, right=True).flatten()
