"""Notices an engine that lives and does not get on: stopped, in a deadlock, or waiting for a GPU
that hangs."""

import threading
import time
from collections.abc import Callable

CHECKS = 10
"""Looks within the time that an engine has."""

LONGEST_PAUSE_S = 1.0


class Watchdog:
    """Calls `on_stall` once if somebody has waited for the engine for `timeout_s`, and in all that
    time it said nothing.

    An engine tells of every forward pass, whoever it is for; so one that is silent for so long is
    in a pass that does not end. While nobody waits it may be silent for ever.
    """

    def __init__(
        self, timeout_s: float, is_awaited: Callable[[], bool], on_stall: Callable[[], None]
    ) -> None:
        self.timeout_s = timeout_s
        self._is_awaited = is_awaited
        self._on_stall = on_stall
        self._since = time.monotonic()
        """When it was heard last, or was seen to owe nothing."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="engine-watchdog", daemon=True)

    def start(self) -> None:
        self.heard()
        self._thread.start()

    def stop(self) -> None:
        """May be called without `start`, and more than once."""
        self._over.set()

    def heard(self) -> None:
        """The engine said something. Cheap: called for every step, on the link's thread."""
        self._since = time.monotonic()

    def is_stalled(self, now: float) -> bool:
        """To be asked from time to time; silence is counted from a time at which nobody waited."""
        if not self._is_awaited():
            self._since = now
        return now - self._since >= self.timeout_s

    def _watch(self) -> None:
        pause_s = min(self.timeout_s / CHECKS, LONGEST_PAUSE_S)
        while not self._over.wait(pause_s):
            if self.is_stalled(time.monotonic()):
                self._on_stall()
                return
