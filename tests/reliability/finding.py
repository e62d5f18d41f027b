"""A row of the table: what is promised, and what was seen."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise, tried. `seen` has the figures; `holds`: whether they are within the aim."""

    promise: str
    aim: str
    seen: str
    holds: bool

    @property
    def row(self) -> str:
        return f"| {self.promise} | {self.aim} | {self.seen} | {'yes' if self.holds else 'NO'} |"


HEAD = "| promise | aim | seen | holds |\n| --- | --- | --- | --- |"
