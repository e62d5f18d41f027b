"""How many prompt tokens a step may take while others' answers are being written. Knows no torch.

A stream's next token comes with the next step, so every prompt token in a step delays all running
streams. What a step costs is not known beforehand (model, machine, batch, lengths), so it is
learned from the steps themselves.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from statistics import median

FLOOR = 16
"""Prompt tokens that a step always takes, however dear they are: a prompt must get through."""
FIRST_GUESS = 64
"""Prompt tokens in the very first step whose cost teaches what a prompt token costs."""
MEASURE_EVERY = 64
"""After so many steps with prompts one goes without, to learn again what decoding alone costs."""
WINDOW = 5
"""Observations whose median counts: a pause for other reasons then teaches nothing false."""


class Pace:
    """Chooses a step's prompt budget so that it takes about `stretch` times as long as decoding
    alone.

    Costs are thought of as `decode(rows) + prompt_tokens * token`. Where they are not linear (the
    fixed cost of a chunk, attention over a long prompt) a token's price is that in the last steps,
    at their amounts, and so the budget still settles where the step takes the time wanted.
    """

    def __init__(self, stretch: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._stretch = stretch
        self._clock = clock
        self._began = 0.0
        self._decode_s: defaultdict[int, deque[float]] = defaultdict(_window)
        """Seconds of steps without prompts, by the magnitude of the batch (1, 2-3, 4-7, ...)."""
        self._token_s = _window()
        self._unmeasured = 0
        """Steps with prompts since the last one without."""

    def prompt_budget(self, rows: int, most: int) -> int:
        """Prompt tokens, `most` at most, for a step in which `rows` sequences decode.

        0, now and then, in a step that is to show what decoding alone costs.
        """
        if rows == 0:
            return most
        alone = self._decode_s.get(rows.bit_length())
        if alone is None or self._unmeasured >= MEASURE_EVERY:
            return 0
        if not self._token_s:
            return min(FIRST_GUESS, most)
        affordable = (self._stretch - 1) * median(alone) / median(self._token_s)
        return min(max(int(affordable), FLOOR), most)

    def start(self) -> None:
        self._began = self._clock()

    def finish(self, rows: int, prompt_tokens: int) -> None:
        """A step is over in which `rows` sequences decoded beside so many prompt tokens.

        Steps in which nobody decodes teach nothing: nobody waits for them, and a GPU may not even
        have begun them.
        """
        seconds = self._clock() - self._began
        if rows == 0:
            return
        if prompt_tokens == 0:
            self._decode_s[rows.bit_length()].append(seconds)
            self._unmeasured = 0
            return
        self._unmeasured += 1
        alone = self._decode_s.get(rows.bit_length())
        if alone is not None and prompt_tokens >= FLOOR:  # fewer drown in the noise
            extra = seconds - median(alone)
            self._token_s.append(max(extra / prompt_tokens, 1e-9))


def _window() -> deque[float]:
    return deque(maxlen=WINDOW)
