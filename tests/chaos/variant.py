"""`manage.py serve` as it is, or broken on purpose: what the ledger must pass, and what it must
find out. Both can be armed (tests/chaos/failpoints.py).

    python -m tests.chaos.variant NAME serve ...
"""

import asyncio
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

from tests.chaos import failpoints

WORD_MS = 10
"""LLMAPI_ENGINE=echo takes its time over each word."""


def sound() -> None:
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


def stored_twice() -> None:
    """As if a commit that seemed to fail, and did not, were tried again."""
    from dataclasses import replace

    from conversations.ids import public_id
    from llmapi import completions

    start = completions.completion_start

    def start_twice(new: Any) -> Any:
        start(replace(new, public_id=public_id("chatcmpl-")))
        return start(new)

    completions.completion_start = start_twice


def asked_cut_short() -> None:
    """The last character of what was asked is not stored."""
    from dataclasses import replace

    from llmapi import completions

    start = completions.completion_start

    def start_short(new: Any) -> Any:
        if new.messages is None:
            return start(replace(new, prompt=new.prompt[:-1]))
        *before, last = new.messages
        last = replace(last, content=last.content[:-1])
        return start(replace(new, messages=(*before, last)))

    completions.completion_start = start_short


def done_before_journal() -> None:
    """The client hears [DONE] before the journal has what the database does not take."""
    from llmapi import endings

    failpoints.database_takes_nothing()
    endings.append_and_settle = lambda ended, reservation: None


def never_replayed() -> None:
    """What a dead process left in its journal stays there."""
    from conversations.processes import registration, sweeping

    registration.journals_replay = sweeping.journals_replay = lambda journals: 0


def keys_forgotten() -> None:
    """What is sent again is answered anew."""
    from dataclasses import replace

    from llmapi import completions

    start = completions.completion_start
    completions.completion_start = lambda new: start(replace(new, idempotency=None))


def text_cut_short() -> None:
    """The last word is not stored."""
    from dataclasses import replace

    from llmapi import reservations

    finish = reservations.completion_finish

    def finish_short(pk: int, end: Any) -> None:
        choices = tuple(replace(c, text=c.text.rpartition(" ")[0]) for c in end.choices)
        finish(pk, replace(end, choices=choices))

    reservations.completion_finish = finish_short


def never_flushed() -> None:
    """What a stream has said so far is not kept."""
    from llmapi import flusher

    flusher.completions_flush = lambda partials: None


def flushed_elsewhere() -> None:
    """What a stream has said so far is kept as another's."""
    from llmapi import flusher

    flush = flusher.completions_flush

    def flush_crosswise(partials: Any) -> None:
        pks = [*partials]
        flush(dict(zip(pks, [partials[pk] for pk in pks[1:] + pks[:1]], strict=True)))

    flusher.completions_flush = flush_crosswise


def interrupted_without_text() -> None:
    """What is interrupted loses what was kept of it."""
    from dataclasses import replace

    from conversations import services

    end = services._end

    def end_without(completion: Any, of: Any) -> None:
        end(completion, replace(of, choices=()) if of.status == "interrupted" else of)

    services._end = end_without


def engine_death_untold() -> None:
    """Who waits for an engine that died goes on waiting."""
    from llmapi.backends.mailbox import Mailbox

    Mailbox.fail = lambda self, error: None  # type: ignore[method-assign]


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
        sound,
        done_before_commit,
        accepted_before_commit,
        stored_twice,
        asked_cut_short,
        done_before_journal,
        never_replayed,
        keys_forgotten,
        text_cut_short,
        never_flushed,
        flushed_elsewhere,
        interrupted_without_text,
        engine_death_untold,
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
    failpoints.install()
    execute_from_command_line(["manage.py", *arguments])


if __name__ == "__main__":
    main()
