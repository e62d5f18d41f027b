"""How much of what a step may take, so that nobody waits too long for others. Knows no torch.

A stream's next token comes with the next step, so whatever else is in a step delays it: prompts of
others, and others' streams. What a step costs is not known beforehand (model, machine, batch,
lengths), so it is learned from the steps themselves.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from statistics import median
from typing import Any

FLOOR = 16
"""Prompt tokens that a step always takes, however dear they are: a prompt must get through."""
FIRST_GUESS = 64
"""Prompt tokens in the very first step whose cost teaches what a prompt token costs."""
MEASURE_EVERY = 64
"""After so many steps with prompts one goes without, to learn again what decoding alone costs."""
FORGOTTEN_AFTER = 1024
"""Steps, after which it is no longer known what decoding so many rows costs."""
WINDOW = 5
"""Observations whose median counts: a pause for other reasons then teaches nothing false."""
LEAST_STRETCH = 1.25
"""Of steps that take long."""


class Pace:
    """Chooses a step's budgets so that it takes about so many times as long as without: `stretch`
    times for prompts, and `others` times in all for what others want beside the user who wants
    least.

    Who comes waits for the end of a step: if it took longer than `long_s`, it is stretched hardly.

    Costs are thought of as `decode(rows) + prompt_tokens * token`. Where they are not linear (the
    fixed cost of a chunk, attention over a long prompt) a token's price is that in the last steps,
    at their amounts, and so the budget still settles where the step takes the time wanted.
    """

    def __init__(
        self,
        stretch: float,
        *,
        others: float = 1.75,
        long_s: float = 0.1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stretch = stretch
        self._others = others
        self._long_s = long_s
        self._clock = clock
        self._began = 0.0
        self._steps = 0
        self._decoded: defaultdict[int, deque[tuple[int, float]]] = defaultdict(_window)
        """Rows and seconds of steps without prompts, by the magnitude of the batch (1, 2-3, 4-7,
        ...)."""
        self._decoded_at: dict[int, int] = {}
        """When the last of them was."""
        self._token_s: deque[float] = _window()
        self._unmeasured = 0
        """Steps with prompts since the last one without."""

    # ---- budgets ---------------------------------------------------------------------------------

    def prompt_budget(self, rows: int, most: int, *, is_only: bool = False) -> int:
        """Prompt tokens, `most` at most, for a step in which `rows` sequences decode: so many that
        it takes about `stretch` times as long as decoding alone. 0, now and then, in a step that is
        to show what that costs. `is_only`: no other sequence is there."""
        if rows == 0:
            return most if is_only else self._prompt_tokens(0, most, self._long_s, FIRST_GUESS)
        allowed = self._times(rows, self._stretch)
        if allowed and allowed > self._long_s:
            allowed = max(self._long_s, allowed * LEAST_STRETCH / self._stretch)
        return self._prompt_tokens(rows, most, allowed, FLOOR)

    def first_budget(self, rows: int, most: int, *, beside: int) -> int:
        """The same for prompts of users who have nothing yet, in a step that has but one row of
        each other user, who has at least `beside` sequences: so that none of those waits for longer
        than beside other prompts."""
        return self._prompt_tokens(rows, most, self._times(beside, self._stretch), FLOOR)

    def shared_budget(self, rows: int, most: int, *, beside: int) -> int:
        """The same for prompts in a step for several users: what `row_budget` has left."""
        return self._prompt_tokens(rows, most, self._times(beside, self._others), 1)

    def row_budget(self, least: int, users: int, *, beside_prompts: bool) -> int:
        """Rows of a step for several users, of whom none has fewer sequences than `least`: so many
        that it takes about `others` times as long as with those alone; half of the time is left to
        prompts, if there are any. As many for each user, though. `least`, now and then, to show
        what those cost."""
        alone = self._decode_s(least)
        if alone is None:
            return least
        extra = (self._others - 1) * alone * (0.5 if beside_prompts else 1.0)
        return max(self._rows_within(alone + extra, least), least * users)

    def _prompt_tokens(self, rows: int, most: int, allowed_s: float | None, floor: int) -> int:
        """So many that a step with these rows takes `allowed_s`; None: that is to be learned."""
        if rows == 0:
            decoding_s: float | None = 0.0
            if allowed_s is None or not self._token_s:
                return most  # nobody waits, and nothing would be learned
        else:
            decoding_s = self._decode_s(rows)
            if self._unmeasured >= MEASURE_EVERY:
                return 0
        if decoding_s is None or allowed_s is None:
            return 0
        if not self._token_s:
            return min(FIRST_GUESS, most)
        return min(max(int((allowed_s - decoding_s) / median(self._token_s)), floor), most)

    def _times(self, rows: int, stretch: float) -> float | None:
        """Seconds of a step that takes so many times as long as with these rows alone. Where that
        many have not been seen of late, each further one counts as a prompt token, which costs no
        more."""
        alone = self._decode_s(rows)
        if alone is None:
            fewer = next(filter(None, map(self._known, range(rows.bit_length() - 1, 0, -1))), None)
            if fewer is None or not self._token_s:
                return None
            alone = fewer[1] + (rows - fewer[0]) * median(self._token_s)
        return stretch * alone

    # ---- what steps cost -------------------------------------------------------------------------

    def start(self) -> None:
        self._began = self._clock()

    def finish(self, rows: int, prompt_tokens: int) -> None:
        """A step is over in which `rows` sequences decoded beside so many prompt tokens.

        Steps in which nobody decodes teach nothing: nobody waits for them, and a GPU may not even
        have begun them.
        """
        seconds = self._clock() - self._began
        self._steps += 1
        if rows == 0:
            return
        if prompt_tokens == 0:
            self._decoded[rows.bit_length()].append((rows, seconds))
            self._decoded_at[rows.bit_length()] = self._steps
            self._unmeasured = 0
            return
        self._unmeasured += 1
        alone = self._decode_s(rows)
        if alone is not None and prompt_tokens >= FLOOR:  # fewer drown in the noise
            self._token_s.append(max((seconds - alone) / prompt_tokens, 1e-9))

    def _decode_s(self, rows: int) -> float | None:
        """Seconds of a step in which so many rows decode alone; None: not known any more."""
        known = self._known(rows.bit_length())
        if known is None:
            return None
        (count, seconds), step = known, 1 if rows > known[0] else -1
        near = self._known(rows.bit_length() + step) or self._known(rows.bit_length() - step)
        if near is None:
            return seconds
        estimate = seconds + (rows - count) / (near[0] - count) * (near[1] - seconds)
        # More rows take longer, and each of them no longer than with fewer.
        one, other = sorted((seconds, seconds * rows / count))
        return min(max(estimate, one), other)

    def _rows_within(self, seconds: float, rows: int) -> int:
        """The most rows that decode in this time, from `rows` on, which do; or twice as many as
        are known to, to learn what those cost."""
        taken = self._decode_s(rows) or 0.0
        while True:
            more = self._known((2 * rows).bit_length())
            if more is None:
                return 2 * rows
            if more[1] > seconds:
                return rows + int((seconds - taken) / (more[1] - taken) * (more[0] - rows))
            rows, taken = more

    def _known(self, magnitude: int) -> tuple[int, float] | None:
        """Rows and seconds of late, of batches of this magnitude."""
        if self._steps - self._decoded_at.get(magnitude, -FORGOTTEN_AFTER) >= FORGOTTEN_AFTER:
            return None
        rows, seconds = zip(*self._decoded[magnitude], strict=True)
        return int(median(rows)), median(seconds)


def _window() -> deque[Any]:
    return deque(maxlen=WINDOW)
