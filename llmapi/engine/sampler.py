"""How the next tokens are drawn: one vectorised pass, each row by its own request's parameters."""

import math
from collections.abc import Sequence as ListOf
from hashlib import blake2b

import torch
from torch import Tensor

from llmapi.engine.messages import SamplingParams
from llmapi.engine.penalties import Penalties, penalise, penalties_of
from llmapi.engine.sequence import Sequence

FIRST_WIDTH = 256
"""Candidates looked at before a nucleus is known to be wider. Sorting a whole vocabulary costs 40
times as much."""


class Sampler:
    """Draws one token per row, always in float32.

    Each sampled row takes **one** uniform number per token, which follows from its seed and the
    token's place, and inverts its own cumulative distribution in the order of the vocabulary. So a
    seeded answer depends neither on the other rows, nor on how near-equal candidates happen to be
    sorted, nor on whether the sequence had to be computed again: what is kept here between two
    steps follows from its tokens.
    """

    def __init__(self) -> None:
        self._penalties: dict[Sequence, Penalties | None] = {}

    def remove(self, sequence: Sequence) -> None:
        """Forget what is kept of it. Unknown sequences are ignored."""
        self._penalties.pop(sequence, None)

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
        drawn = _draw(self._penalise(logits, chosen), chosen) if rows else []
        tokens: list[int | None] = [None] * len(usable)
        for row, token in zip(rows, drawn, strict=True):
            tokens[row] = token
        return tokens

    def _penalise(self, logits: Tensor, sequences: list[Sequence]) -> Tensor:
        for sequence in sequences:
            if sequence not in self._penalties:
                self._penalties[sequence] = penalties_of(sequence)
        return penalise(logits, sequences, [self._penalties[s] for s in sequences])


def _draw(logits: Tensor, sequences: list[Sequence]) -> list[int]:
    greedy = [row for row, sequence in enumerate(sequences) if _is_greedy(_params(sequence))]
    if len(greedy) == len(sequences):
        return [int(token) for token in _best(logits).tolist()]
    tokens = torch.empty(len(sequences), dtype=torch.long, device=logits.device)
    if greedy:
        tokens[greedy] = _best(logits[greedy])
    random = [row for row, sequence in enumerate(sequences) if not _is_greedy(_params(sequence))]
    params = [_params(sequences[row]) for row in random]
    uniforms = [uniform(sequences[row].seed, sequences[row].drawn) for row in random]
    scores = warp(
        logits[random],
        [p.temperature for p in params],
        [p.top_k for p in params],
        [p.top_p for p in params],
        [p.min_p for p in params],
    )
    tokens[random] = invert(
        scores.softmax(-1), torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
    )
    return [int(token) for token in tokens.tolist()]


def _best(logits: Tensor) -> Tensor:
    """The most probable token of each row; of equal ones the first."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    return torch.from_numpy(logits.numpy().argmax(-1))  # torch's takes ten times as long


def _is_greedy(params: SamplingParams) -> bool:
    return not params.do_sample or params.temperature == 0


def _params(sequence: Sequence) -> SamplingParams:
    if sequence.params is None:
        raise TypeError("nothing is drawn from an input to embed")
    return sequence.params


def uniform(seed: int, place: int) -> float:
    """The number in [0, 1) that decides the token at this place of the answer: a hash, not a
    generator, so that no draw needs those before it."""
    digest = blake2b((seed % 2**64).to_bytes(8) + place.to_bytes(8), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # as many bits as a float64 holds


def warp(
    logits: Tensor,
    temperature: list[float],
    top_k: list[int],
    top_p: list[float],
    min_p: list[float],
) -> Tensor:
    """Temperature, then top-k, top-p and min-p, in transformers' order; what is cut off becomes
    -inf.

    `[rows, vocab]` float32 in and out. Rows are shifted so that their maximum is 0, which changes
    no probability and keeps a tiny temperature from dividing infinity by infinity. Equal scores at
    the edge all stay.
    """
    heat = torch.tensor(temperature, dtype=torch.float32, device=logits.device)
    shifted = logits - logits.amax(-1, keepdim=True)
    # The smallest normal float32: a temperature below it would make 0 / 0 of the best token.
    scores = shifted / heat.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    if any(top_k) or any(p < 1.0 for p in top_p):
        lowest = _lowest_kept(scores, top_k, top_p, max([*top_k, FIRST_WIDTH]))
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    if any(min_p):
        # The best score is 0, so a share of the best probability is a bound for the scores.
        shares = [math.log(p) if p else -math.inf for p in min_p]
        lowest = torch.tensor(shares, dtype=torch.float32, device=scores.device)[:, None]
        scores = scores.masked_fill(scores < lowest, -torch.inf)
    return scores


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
