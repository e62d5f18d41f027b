"""How probable the model found tokens: by its own distribution, before any penalty or warping."""

from collections.abc import Callable
from collections.abc import Sequence as ListOf

import torch
from torch import Tensor

from llmapi.engine.messages import TokenLogprob
from llmapi.engine.sequence import Sequence
from llmapi.engine.vocabulary import Vocabulary

SLICE_NUMBERS = 2**22
"""Logits of a prompt that exist at once. A chunk of 512 tokens times a vocabulary of 128,000 would
be 260 MB."""

Best = list[tuple[int, float]]
"""(token, logarithm of its probability), best first."""


class BrokenNumbers(Exception):
    """The model gave NaN, +inf, or nothing but -inf."""


class Scorer:
    """Tells tokens with their log probabilities, of answers and of prompts."""

    def __init__(
        self, vocabulary: Vocabulary, head: Callable[[Tensor], Tensor], vocab_size: int
    ) -> None:
        """`head` makes logits `[rows, vocab_size]` of last hidden states."""
        self._vocabulary = vocabulary
        self._head = head
        self._slice_rows = max(1, SLICE_NUMBERS // vocab_size)

    def score_drawn(
        self, logits: Tensor, sequences: ListOf[Sequence], tokens: ListOf[int | None]
    ) -> list[TokenLogprob | None]:
        """For each row of `logits` its token; None where nobody asks, or no token was drawn."""
        asked = [
            (row, token, _top(sequences[row]))
            for row, token in enumerate(tokens)
            if token is not None and sequences[row].needs_logprobs
        ]
        told: list[TokenLogprob | None] = [None] * len(tokens)
        if asked:
            rows, drawn, tops = map(list, zip(*asked, strict=True))
            scores = log_probabilities(logits[rows], drawn, tops)
            for row, token, score in zip(rows, drawn, scores, strict=True):
                told[row] = self._told(token, *score)
        return told

    def score_prompt(self, sequence: Sequence, positions: range, hidden: Tensor | None) -> None:
        """Go on with `sequence.prompt_logprobs`: the tokens after `positions`, whose last hidden
        states are `[len(positions), hidden_size]`. Raises BrokenNumbers."""
        told, top = sequence.prompt_logprobs, _top(sequence)
        if not told:
            told.append(self._told(sequence.tokens[0], None, []))
        if hidden is None:
            return
        for first in range(0, len(positions), self._slice_rows):
            part = positions[first : first + self._slice_rows]
            tokens = [sequence.tokens[position + 1] for position in part]
            logits = self._head(hidden[first : first + len(part)])
            scores = log_probabilities(logits, tokens, [top] * len(part))
            told += [self._told(t, *score) for t, score in zip(tokens, scores, strict=True)]

    def _told(self, token: int, logprob: float | None, best: Best) -> TokenLogprob:
        bytes_of = self._vocabulary.bytes_of
        top = tuple(TokenLogprob(other, bytes_of(other), value) for other, value in best)
        return TokenLogprob(token, bytes_of(token), logprob, top)


def log_probabilities(
    logits: Tensor, tokens: ListOf[int], tops: ListOf[int]
) -> list[tuple[float, Best]]:
    """For each row of `logits` `[rows, vocab]`: its token's, and the row's number of best ones.

    In float32; what the model itself rules out has -inf. Raises BrokenNumbers.
    """
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    if not bool(total.isfinite().all()):
        raise BrokenNumbers
    places = torch.tensor(tokens, device=logits.device)[:, None]
    chosen = (logits.gather(-1, places) - total)[:, 0].tolist()
    best = logits.topk(min(max(tops), logits.shape[-1]), dim=-1)
    rows = zip(best.indices.tolist(), (best.values - total).tolist(), strict=True)
    return [
        (logprob, list(zip(ids[:top], values[:top], strict=True)))
        for logprob, top, (ids, values) in zip(chosen, tops, rows, strict=True)
    ]


def _top(sequence: Sequence) -> int:
    return (sequence.params.logprobs or 0) if sequence.params is not None else 0
