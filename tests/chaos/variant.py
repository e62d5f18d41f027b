"""`manage.py serve` with something changed in it: for servers beside the one that is killed, and
for builds broken on purpose, which the ledger must find out.

    python -m tests.chaos.variant NAME serve ...
"""

import asyncio
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

WORD_MS = 10
"""LLMAPI_ENGINE=echo takes its time over each word."""


def slow_echo() -> None:
    """Nothing is broken."""


def done_before_commit() -> None:
    """The client hears [DONE] long before the row says `completed`."""
    from llmapi import completions

    finish = completions.finish
    late = set()

    async def finish_late(*args: Any) -> None:
        async def write() -> None:
            await asyncio.sleep(60)
            await finish(*args)

        late.add(asyncio.get_running_loop().create_task(write()))

    completions.finish = finish_late


def accepted_before_commit() -> None:
    """The row is written when the answer is complete, not before it begins."""
    from django.utils import timezone

    from conversations.services import Started
    from llmapi import completions, reservations

    start, finish = completions.completion_start, reservations.completion_finish
    waiting = {}
    numbers = itertools.count(1)

    def start_later(new: Any) -> Started:
        pk = -next(numbers)
        waiting[pk] = new
        return Started(pk, timezone.now(), None)

    completions.completion_start = start_later
    reservations.completion_finish = lambda pk, end: finish(start(waiting.pop(pk)).pk, end)


def text_cut_short() -> None:
    """The last word is not stored."""
    from dataclasses import replace

    from llmapi import reservations

    finish = reservations.completion_finish

    def finish_short(pk: int, end: Any) -> None:
        choices = tuple(replace(c, text=c.text.rpartition(" ")[0]) for c in end.choices)
        finish(pk, replace(end, choices=choices))

    reservations.completion_finish = finish_short


def no_sweep() -> None:
    """What dead processes left running stays so."""
    from conversations.processes import registration

    registration.processes_sweep = lambda: 0


def sweeps_the_living() -> None:
    """Every other process is taken for dead."""
    from conversations.processes import lockfile

    lockfile.is_held = lambda path: False


VARIANTS: dict[str, Callable[[], None]] = {
    change.__name__: change
    for change in (
        slow_echo,
        done_before_commit,
        accepted_before_commit,
        text_cut_short,
        no_sweep,
        sweeps_the_living,
    )
}


def main() -> None:
    import django
    from django.core.management import execute_from_command_line

    name, *arguments = sys.argv[1:]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    os.environ["LLMAPI_ECHO_DELAY_MS"] = str(WORD_MS)
    django.setup()
    VARIANTS[name]()
    execute_from_command_line(["manage.py", *arguments])


if __name__ == "__main__":
    main()
