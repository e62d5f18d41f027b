"""What clients were told, held against what is stored."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.reliability.crowd import Told
from tests.serve.history import History

ENDED = ("interrupted", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Compared:
    """Requests of each kind. `lost`: there is no such row; `other_text`: it says something else, or
    less than was sent; `other_end`: it says that it ended in another way; `running`: rows that say
    that they are still under way, whoever asked."""

    requests: int
    lost: int
    other_text: int
    other_end: int
    running: int

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.other_text or self.other_end or self.running)

    def __str__(self) -> str:
        return (
            f"of {self.requests} rows {self.lost} lost, {self.other_text} with another text, "
            f"{self.other_end} with another end, {self.running} left running"
        )


def compare(history: History, told: Iterable[Told], *, web_lived: bool = True) -> Compared:
    """Whoever has an id was accepted. A whole answer is stored as it was sent; one that broke off
    with at least what was sent, if the web process lived on to write that."""
    rows = {row.public_id: row for row in history.read().completions}
    accepted = [one for one in told if one.public_id is not None]
    found = [(one, rows[one.public_id]) for one in accepted if one.public_id in rows]
    other_text = other_end = 0
    for one, row in found:
        kept = "".join(row.texts)
        if one.is_whole:
            other_text += kept != one.text
            other_end += row.status != "completed"
        else:
            other_text += not kept.startswith(one.text) and (
                web_lived or not one.text.startswith(kept)
            )
            other_end += row.status not in ENDED
    running = sum(row.status == "running" for row in rows.values())
    return Compared(len(accepted), len(accepted) - len(found), other_text, other_end, running)
