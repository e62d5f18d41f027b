"""What a request adds to its logits or takes from them, before a token is chosen."""

from array import array
from collections.abc import Callable
from collections.abc import Sequence as ListOf

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmapi.engine.messages import SamplingParams
from llmapi.engine.sequence import Sequence

RULED_OUT = torch.finfo(torch.float32).min
"""The logit of a token that may not be drawn yet. Finite, so that a row in which nothing else is
left still has a best token."""


class Penalties:
    """Logit bias, penalties and the tokens seen of one sequence: only those that it has, never the
    whole vocabulary.

    All of it follows from the sequence's parameters and `tokens`; what was appended to them is
    counted at the next step. So it may be thrown away and made again at any time.
    """

    __slots__ = ("_counted", "_places", "bias", "biased", "counts", "params", "seen")

    def __init__(self, params: SamplingParams, prompt_tokens: int) -> None:
        self.params = params
        self.biased = numpy.array([token for token, _ in params.logit_bias], dtype=numpy.int64)
        self.bias = numpy.array([value for _, value in params.logit_bias], dtype=numpy.float32)
        self.seen = array("q")
        """Each token of the prompt and the answer, once; only of the answer, where no penalty looks
        at the prompt."""
        self.counts = array("f")
        """How often the answer has each of them."""
        self._places: dict[int, int] = {}
        self._counted = 0 if params.repetition_penalty != 1.0 else prompt_tokens

    def follow(self, tokens: list[int], prompt_tokens: int) -> None:
        """Count what is new in `tokens`."""
        for position in range(self._counted, len(tokens)):
            token = tokens[position]
            place = self._places.setdefault(token, len(self.seen))
            if place == len(self.seen):
                self.seen.append(token)
                self.counts.append(0.0)
            if position >= prompt_tokens:
                self.counts[place] += 1.0
        self._counted = len(tokens)


def penalties_of(sequence: Sequence) -> Penalties | None:
    """New ones, or None: this request leaves its logits as they are."""
    params = sequence.params
    if params is None or not (params.logit_bias or _looks_back(params)):
        return None
    return Penalties(params, sequence.prompt_tokens)


def penalise(
    logits: Tensor, sequences: ListOf[Sequence], penalties: ListOf[Penalties | None]
) -> Tensor:
    """Logit bias, then repetition, presence and frequency penalty, then `min_tokens`.

    `[rows, vocab]` float32 in and out; the rows of requests without any of these are left as they
    are, and if there are no others, `logits` itself comes back.
    """
    biased, seen, too_early = [], [], []
    for row, (sequence, of_row) in enumerate(zip(sequences, penalties, strict=True)):
        if of_row is not None and len(of_row.biased):
            biased.append((row, of_row))
        if of_row is not None and _looks_back(of_row.params):
            of_row.follow(sequence.tokens, sequence.prompt_tokens)
            if of_row.seen:
                seen.append((row, of_row))
        if sequence.params is not None and sequence.drawn < sequence.params.min_tokens:
            too_early.append((row, sequence.ends))
    if not (biased or seen or too_early):
        return logits
    logits = logits.clone(memory_format=torch.contiguous_format)
    if biased:
        values = numpy.concatenate([p.bias for _, p in biased])
        places = _places(logits, [(row, p.biased) for row, p in biased])
        logits.view(-1).index_add_(0, places, torch.from_numpy(values).to(logits.device))
    if seen:
        _look_back(logits, seen)
    if ends := [(row, numpy.array(list(tokens), dtype=numpy.int64)) for row, tokens in too_early]:
        logits.view(-1).index_fill_(0, _places(logits, ends), RULED_OUT)
    return logits


def _looks_back(params: SamplingParams) -> bool:
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return penalties != (1.0, 0.0, 0.0)


def _look_back(logits: Tensor, rows: list[tuple[int, Penalties]]) -> None:
    """The repetition penalty is transformers', over prompt and answer; presence and frequency are
    OpenAI's, over the answer. In place."""
    penalties = [p for _, p in rows]
    lengths = [len(p.seen) for p in penalties]

    def spread(value: Callable[[SamplingParams], float]) -> NDArray[numpy.float32]:
        values = numpy.array([value(p.params) for p in penalties], dtype=numpy.float32)
        return numpy.repeat(values, lengths)

    counts = numpy.concatenate([numpy.frombuffer(p.counts, dtype=numpy.float32) for p in penalties])
    taken = spread(lambda p: p.frequency_penalty) * counts
    taken += spread(lambda p: p.presence_penalty) * (counts > 0)
    repetition = torch.from_numpy(spread(lambda p: p.repetition_penalty)).to(logits.device)
    places = _places(logits, [(row, numpy.frombuffer(p.seen, numpy.int64)) for row, p in rows])
    flat = logits.view(-1)
    found = flat[places]
    found = torch.where(found < 0, found * repetition, found / repetition)
    flat[places] = found - torch.from_numpy(taken).to(logits.device)


def _places(logits: Tensor, rows: list[tuple[int, NDArray[numpy.int64]]]) -> Tensor:
    """Where those tokens of those rows are in the flattened logits."""
    width = logits.shape[-1]
    places = numpy.concatenate([row * width + tokens for row, tokens in rows])
    return torch.from_numpy(places).to(logits.device)
