"""Who waits to be admitted: one line per user. Knows no torch."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from llmapi.engine.sequence import Sequence


class WaitingLines:
    """Each user's sequences in their order, and the users in turn."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Sequence]] = OrderedDict()
        """The user served longest ago first. No line is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for line in self._lines.values():
            yield from line

    @property
    def users(self) -> list[str]:
        return list(self._lines)

    def of(self, user: str) -> Iterator[Sequence]:
        return iter(self._lines[user])

    def add(self, sequence: Sequence) -> None:
        self._lines.setdefault(sequence.user, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """To the head of its line, and its line to the head: it has been served already, and lost
        its place for others' sake."""
        self._lines.setdefault(sequence.user, deque()).appendleft(sequence)
        self._lines.move_to_end(sequence.user, last=False)

    def serve(self, sequence: Sequence) -> None:
        """Take a sequence out; its user comes last now."""
        self._lines.move_to_end(sequence.user)
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Unknown sequences are ignored."""
        line = self._lines.get(sequence.user)
        if line and sequence in line:
            line.remove(sequence)
            if not line:
                del self._lines[sequence.user]
