"""`best_of`: answers that compete, of which only the best are told. Knows no torch."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from llmapi.engine.messages import Answer, Finish


@dataclass(slots=True)
class Candidates:
    """All answers to one prompt. Nothing of them is told until the last one has ended."""

    first_index: int
    """Index of the prompt's first choice in the request."""
    n: int
    """Choices to tell."""
    running: int
    """Candidates that have not ended yet."""
    _events: dict[int, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    _sums: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def draw(self, index: int, logprob: float) -> None:
        """Count one more token of the candidate `index`."""
        self._sums[index] += logprob

    def hold(self, event: Answer) -> None:
        self._events[event.index].append(event)
        self.running -= isinstance(event, Finish)

    def best(self) -> Iterator[Answer]:
        """Everything about the `n` best, renumbered, best first. Ask when none is running."""
        drawn = {index: _finish(events).completion_tokens for index, events in self._events.items()}
        means = {index: self._sums[index] / max(drawn[index], 1) for index in drawn}
        ranking = sorted(drawn, key=lambda index: (-means[index], index))
        discarded = sum(drawn[index] for index in ranking[self.n :])
        for place, index in enumerate(ranking[: self.n]):
            for event in self._events[index]:
                told = replace(event, index=self.first_index + place)
                if isinstance(told, Finish) and place == 0:
                    told = replace(told, discarded_tokens=discarded)
                yield told


def _finish(events: list[Answer]) -> Finish:
    return next(event for event in events if isinstance(event, Finish))
