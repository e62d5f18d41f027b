"""Beam search, one step at a time: the logits of the live beams go in, the next live beams come
out.

The search is that of transformers' `GenerationMixin._beam_search` (5.23), for one prompt. It knows
neither the model nor the cache nor the text, so each live beam can be one more row of a batch.
"""

import math
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from llmapi.engine.beam_scores import BeamScores, samples
from llmapi.engine.messages import FinishReason, SamplingParams

FIRST_WIDTH = 1024
"""Candidates looked at before it is known that others have a chance to be drawn."""

NO_CHANCE = 45.0
"""In nats below the last of as many candidates as are wanted. All that is further below has less
than 1e-13 of the mass together, whatever is drawn before it."""


@dataclass(frozen=True, slots=True)
class Beam:
    """An answer that is not finished, and the beam of the step before that it continues."""

    parent: int
    """Row of the logits that this step was given."""
    tokens: tuple[int, ...]
    """Of the answer; the last one is new."""
    score: float
    """Sum of the log probabilities, as the processors and warpers left them."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished answer."""

    tokens: tuple[int, ...]
    """The end token, or those of the stop string, included."""
    score: float
    """Sum of the log probabilities / length ** length_penalty."""
    reason: FinishReason


class BeamSearch:
    """The state of one search: `num_beams` live beams at most, and as many finished hypotheses.

    While `step` returns beams, compute the logits after each of them, in their order, and give them
    to the next `step`. When it returns none, `best` has the answers.
    """

    def __init__(
        self,
        prompt: Collection[int],
        params: SamplingParams,
        *,
        n: int,
        index: int,
        eos_token_ids: Collection[int],
        vocab_size: int,
        device: torch.device,
        ends: Callable[[tuple[int, ...]], bool] = lambda tokens: False,
    ) -> None:
        """`index`: of its first choice in the request, `n`: of its choices, `num_beams` at most.

        `ends(tokens)`: whether a stop string is complete in an answer. It is asked about every
        candidate, about 2 * `num_beams` times a step.
        """
        self._params = params
        self._n = n
        self._ends = ends
        eos = () if params.ignore_eos else eos_token_ids
        self._end_tokens = frozenset(eos) | frozenset(params.stop_token_ids)
        # So many that the search can go on even if each beam meets every end token.
        keep = max(2, 1 + len(self._end_tokens))
        self._wanted = keep * params.num_beams
        self._scores = BeamScores(
            prompt,
            params,
            end_tokens=self._end_tokens,
            keep=keep,
            vocab_size=vocab_size,
            device=device,
        )
        self._generator: torch.Generator | None = None
        if samples(params):
            seed = secrets.randbits(63) if params.seed is None else params.seed
            self._generator = torch.Generator().manual_seed((seed + index) % 2**63)
        self._length = 0
        self._live = [Beam(parent=0, tokens=(), score=0.0)]
        self._finished: list[Hypothesis] = []
        """Best first."""

    def step(self, logits: Tensor) -> list[Beam]:
        """`logits` `[live beams, vocab]`, one row only the first time: after the prompt.

        Returns the live beams, best first; none: the search is done. Raises BrokenNumbers.
        """
        candidates = self._candidates(logits)
        self._length += 1
        going: list[Beam] = []
        for place, beam in enumerate(candidates):
            reason = self._why_finished(beam)
            if reason is None:
                going.append(beam)
            # The candidates beyond the first `num_beams` are there to go on, not to be told.
            elif place < self._params.num_beams:
                self._finish(beam, reason)
        going.sort(key=lambda beam: beam.score, reverse=True)
        self._live = going[: self._params.num_beams]
        if not self._can_improve():
            self._live = []
        live = self._live
        self._scores.follow([beam.parent for beam in live], [beam.tokens[-1] for beam in live])
        return self._live

    def best(self) -> list[Hypothesis]:
        """The `n` best answers, best first, once the search is done.

        Where there are not so many (a tiny vocabulary, stop strings everywhere), the last is told
        again.
        """
        answers = self._finished[: self._n]
        return answers + answers[-1:] * (self._n - len(answers))

    def settled(self) -> tuple[int, ...]:
        """How the best answer begins, whatever comes; it only ever grows. Nothing if `n` > 1,
        where each of several answers may yet turn out to be the best."""
        if self._n > 1:
            return ()
        possible = [beam.tokens for beam in self._live]
        possible += [answer.tokens for answer in self._finished[:1]]
        first, last = min(possible), max(possible)  # what these two share, all share
        shared = zip(first, last, strict=False)
        parting = next((i for i, (a, b) in enumerate(shared) if a != b), len(first))
        return first[:parting]

    # ---- one step --------------------------------------------------------------------------------

    def _candidates(self, logits: Tensor) -> list[Beam]:
        """The best continuations of all live beams, or some drawn at random; those first that count
        first."""
        scores = self._scores.of(logits, self._length)
        before = [[beam.score] for beam in self._live]
        totals = scores + torch.tensor(before, dtype=torch.float32, device=scores.device)
        flat = totals.flatten()
        if self._generator is None:
            chosen = flat.topk(min(self._wanted, len(flat))).indices
        else:
            chosen = draw(totals, self._wanted, self._generator)
        vocab_size = logits.shape[-1]
        candidates = []
        for place, score in zip(chosen.tolist(), flat[chosen].tolist(), strict=True):
            if score == -math.inf:
                continue
            parent, token = divmod(place, vocab_size)
            candidates.append(Beam(parent, (*self._live[parent].tokens, token), score))
        return candidates

    def _why_finished(self, beam: Beam) -> FinishReason | None:
        if beam.tokens[-1] in self._end_tokens or self._ends(beam.tokens):
            return FinishReason.STOP
        return FinishReason.LENGTH if self._length == self._params.max_tokens else None

    def _finish(self, beam: Beam, reason: FinishReason) -> None:
        score = self._normalised(beam.score, self._length)
        self._finished.append(Hypothesis(beam.tokens, score, reason))
        self._finished.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
        del self._finished[self._params.num_beams :]

    def _can_improve(self) -> bool:
        """Whether a live beam may still find its way among the finished hypotheses.

        With `early_stopping` False this is transformers' guess: as if the best beam ended here.
        """
        params = self._params
        if not self._live:
            return False
        if len(self._finished) < params.num_beams:
            return True
        if params.early_stopping:
            return False
        longer_is_better = params.early_stopping is None and params.length_penalty > 0
        length = params.max_tokens if longer_is_better else self._length
        return self._normalised(self._live[0].score, length) > self._finished[-1].score

    def _normalised(self, score: float, length: int) -> float:
        # Bounded, because Python's own power raises OverflowError.
        exponent = self._params.length_penalty * math.log(length)
        return score / math.exp(max(-300.0, min(300.0, exponent)))


def draw(totals: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """Draw `wanted` different candidates, each with the share that its `exp(total)` has of those
    not drawn yet.

    `totals` is `[beams, vocab]`; the answer is flat indices in the order drawn, fewer if there are
    not so many above -inf. Uniform numbers are sought in the cumulative distribution, and what was
    drawn before is passed over: it had no share. So a seed does not depend on how near-equal
    candidates happen to be sorted, and there is no random number for each of a whole vocabulary.
    """
    flat = totals.flatten()
    wanted = min(wanted, int((flat > -torch.inf).sum()))
    best = flat.topk(min(max(FIRST_WIDTH, wanted), len(flat)))
    places = torch.arange(len(flat), device=flat.device)
    if best.values[-1] < best.values[wanted - 1] - NO_CHANCE:
        places = best.indices.sort().values
    left = flat[places]
    drawn: dict[int, None] = {}  # a set that keeps its order
    while len(drawn) < wanted:
        cumulative = left.softmax(-1).cumsum(-1, dtype=torch.float64)
        uniforms = torch.rand(wanted, dtype=torch.float64, generator=generator).to(left.device)
        below = torch.nextafter(cumulative[-1], torch.zeros_like(cumulative[-1]))
        hits = torch.searchsorted(
            cumulative, torch.minimum(uniforms * cumulative[-1], below), right=True
        )
        drawn |= dict.fromkeys(hits.tolist())
        left[hits] = -torch.inf
    return places[list(drawn)[:wanted]]
