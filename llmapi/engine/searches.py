"""Beam search in the batch: each live beam is a sequence like any other, with a row of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmapi.engine.beams import Beam, BeamSearch, Hypothesis
from llmapi.engine.detokenizer import Detokenizer
from llmapi.engine.messages import Answer, Finish, FinishReason, TextDelta
from llmapi.engine.sequence import Sequence
from llmapi.engine.vocabulary import Vocabulary

MARGIN_BYTES = 8
"""Text before a stop string that is looked at too: a tail may begin with half a character."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one step of a search asks of whoever schedules its sequences: forks, then removals."""

    forks: list[tuple[Sequence, Sequence]]
    """(running parent, new child)."""
    dropped: list[Sequence]
    told: list[Answer]


class Search:
    """One prompt's search: the sequences of its live beams, and what is told of its choices.

    With one choice its text is told as far as all that may still win agree on it; several choices
    are told at the end.
    """

    def __init__(
        self,
        root: Sequence,
        n: int,
        vocabulary: Vocabulary,
        *,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        """`root`: the prompt, with the index of the first of its `n` choices."""
        if root.params is None:
            raise TypeError("nothing is searched for an input to embed")
        self.beams = [root]
        """None: the search is over. After a step in which all of them were computed, `step`."""
        self._root = root
        prompt, stop = list(root.tokens), root.params.stop
        self._beam_search = BeamSearch(
            prompt,
            root.params,
            n=n,
            index=root.index,
            eos_token_ids=root.ends,
            vocab_size=vocab_size,
            device=device,
            ends=ends_with(stop, prompt, vocabulary),
        )
        self._choices = [
            Choice(root, root.index + i, Detokenizer(vocabulary.stream(prompt), stop))
            for i in range(n)
        ]

    @property
    def request_id(self) -> str:
        return self._root.request_id

    def step(self, logits: Tensor) -> Turn:
        """`logits` `[len(beams), vocab]`, in their order. Raises BrokenNumbers."""
        live = self._beam_search.step(logits)
        forks, dropped = self._follow(live)
        if live:  # of several choices nothing is settled before the end
            return Turn(forks, dropped, self._choices[0].push(self._beam_search.settled()))
        told: list[Answer] = []
        for choice, answer in zip(self._choices, self._beam_search.best(), strict=True):
            told += choice.finish(answer)
        return Turn(forks, dropped, told)

    def _follow(self, live: list[Beam]) -> tuple[list[tuple[Sequence, Sequence]], list[Sequence]]:
        """A parent's first child takes over its sequence; the others fork from it."""
        parents = self.beams
        self.beams, forks = [], []
        going: set[Sequence] = set()
        for beam in live:
            parent = parents[beam.parent]
            if parent in going:
                child = _child(parent)
                forks.append((parent, child))
            else:
                child = parent
                going.add(parent)
            self.beams.append(child)
        for sequence, beam in zip(self.beams, live, strict=True):  # not before all are copied
            sequence.tokens.append(beam.tokens[-1])
        return forks, [parent for parent in parents if parent not in going]


def _child(parent: Sequence) -> Sequence:
    return Sequence(
        parent.request_id,
        parent.index,
        parent.user,
        parent.prompt_tokens,
        list(parent.tokens),
        parent.params,
        adapter=parent.adapter,
        shared_tokens=parent.shared_tokens,
        ends=parent.ends,
    )


@dataclass(slots=True)
class Choice:
    """The text of one choice, as far as its tokens are known."""

    root: Sequence
    index: int
    detokenizer: Detokenizer
    pushed: int = 0
    told_tokens: int = 0

    def push(self, tokens: tuple[int, ...]) -> list[Answer]:
        """`tokens`: all so far. End tokens have no text."""
        return self._told(self._text(tokens))

    def finish(self, answer: Hypothesis) -> list[Answer]:
        text = self._text(answer.tokens)
        if not self.detokenizer.stopped:
            text += self.detokenizer.finish()
        finish = Finish(
            self.root.request_id,
            self.index,
            FinishReason.STOP if self.detokenizer.stopped else answer.reason,
            prompt_tokens=self.root.prompt_tokens,
            completion_tokens=len(answer.tokens),
            cached_tokens=self.root.cached_tokens or 0,
        )
        return [*self._told(text), finish]

    def _text(self, tokens: tuple[int, ...]) -> str:
        fresh, self.pushed = tokens[self.pushed :], len(tokens)
        push, ends = self.detokenizer.push, self.root.ends
        return "".join(push(token) for token in fresh if token not in ends)

    def _told(self, text: str) -> list[Answer]:
        if not text:
            return []
        tokens, self.told_tokens = self.pushed - self.told_tokens, self.pushed
        return [TextDelta(self.root.request_id, self.index, text, tokens)]


def ends_with(
    stop: tuple[str, ...], prompt: list[int], vocabulary: Vocabulary
) -> Callable[[tuple[int, ...]], bool]:
    """Whether a stop string is complete in an answer in which none was before its last token.

    So only the end of the answer is made into text, for this is asked about every candidate.
    """
    if not stop:
        return lambda tokens: False
    reach = max(len(text.encode("utf-8", "surrogatepass")) for text in stop) + MARGIN_BYTES

    def ends(tokens: tuple[int, ...]) -> bool:
        first, seen = len(tokens) - 1, 0
        while first and seen < reach:
            first -= 1
            seen += len(vocabulary.bytes_of(tokens[first]))
        before = [*prompt, *tokens[:first]]
        detokenizer = Detokenizer(vocabulary.stream(before), stop)
        for token in tokens[first:]:
            detokenizer.push(token)
        return detokenizer.stopped

    return ends
