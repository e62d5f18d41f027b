"""Tokens in, sendable text out. Knows no torch."""

from llmapi.engine.vocabulary import REPLACEMENT, TextStream


class Detokenizer:
    """The text of one choice: whole characters, no NUL, and nothing of a stop string, ever.

    Text that may be the beginning of a stop string is held back until the next token decides.
    """

    def __init__(self, stream: TextStream, stop: tuple[str, ...] = ()) -> None:
        self._stream = stream
        self._stop = stop
        self._reach = max(map(len, stop), default=0)
        self._held = ""
        self.made = 0
        """Characters that the tokens so far have made, whether sent or held back."""
        self.sent = 0
        """Characters given out by `push` and `finish`."""
        self.stopped = False
        """A stop string is complete; the text ends before it."""

    def push(self, token: int) -> str:
        """Text that can be sent now that this token is known; often empty."""
        text = self._release(self._stream.push(token))
        self.sent += len(text)
        return text

    def finish(self) -> str:
        """What is left at the end. Half a character is dropped, for it never was text."""
        text = self._release(self._stream.finish())
        if not self.stopped:
            text, self._held = text + self._held, ""
        self.sent += len(text)
        return text

    def _release(self, fresh: str) -> str:
        if self.stopped:
            return ""
        self.made += len(fresh)
        # PostgreSQL refuses NUL, and real vocabularies have a token for it.
        text = self._held + fresh.replace("\0", REPLACEMENT)
        cut = self._complete(text)
        if cut is not None:
            self.stopped = True
            self._held = ""
            return text[:cut]
        keep = self._possible(text)
        self._held = text[keep:]
        return text[:keep]

    def _complete(self, text: str) -> int | None:
        """Where the stop string begins that is complete first; None if none is."""
        found = [
            (place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0
        ]
        return min(found)[1] if found else None

    def _possible(self, text: str) -> int:
        """Where the longest tail begins that may become a stop string."""
        for place in range(max(0, len(text) - self._reach + 1), len(text)):
            if any(stop.startswith(text[place:]) for stop in self._stop):
                return place
        return len(text)
