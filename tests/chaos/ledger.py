"""What a client was told, written down before it acts on it: one JSON object a line, fsynced.

A request is named by the `x-request-id` of its answer, which a client sees before any id in a body.
"""

import hashlib
import json
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """SHA-256 of a text, or of what JSON makes of anything else."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class LedgerWriter:
    """Appends from several threads; `write` returns when the line is on the disk."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()

    def write(self, event: str, request: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "request": request, "at": time.time(), **facts}) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode())
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(slots=True)
class Told:
    """One accepted request as its client knows it. Times are those of `time.time()`.

    `asked`: digest of the prompt, or of the chat's [role, content] pairs. `said`: its new user
    message or prompt, which no other request has. Of one that did not come to its end, `partial` is
    all that had come, and `ages` tells how many seconds before its text had grown to so many
    characters; `error`: the code of the error event that ended it, if it was told one.
    """

    request: str
    kind: str
    streamed: bool
    said: str
    asked: str
    accepted_at: float
    public_id: str | None = None
    ended_at: float | None = None
    finished: str | None = None
    partial: str | None = None
    ages: list[tuple[float, int]] = field(default_factory=list)
    error: str | None = None

    def unkept_s(self, kept: int) -> float:
        """How old the first of the text was of which not so many characters are kept; 0: all is."""
        return next((age for age, length in self.ages if length > kept), 0.0)


@dataclass(frozen=True, slots=True)
class Replayed:
    """An answer that was sent again, for the idempotency key of what was `said`."""

    request: str
    said: str
    public_id: str
    digest: str


@dataclass(slots=True)
class Ledger:
    """Everything one client was told. `refused`: (status, code) -> how often. `silences`: requests
    to which nothing came for longer than any client waits."""

    told: dict[str, Told] = field(default_factory=dict)
    replayed: list[Replayed] = field(default_factory=list)
    refused: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    silences: int = 0

    @property
    def finished(self) -> list[Told]:
        return [told for told in self.told.values() if told.finished is not None]

    @property
    def broken(self) -> list[Told]:
        """Those that came to no end: the connection broke, or an error said so."""
        return [told for told in self.told.values() if told.partial is not None]

    @property
    def under_way(self) -> list[Told]:
        """Streams whose client knows that they are accepted, and not yet how they ended."""
        return [t for t in self.told.values() if t.public_id is not None and t.ended_at is None]

    def __or__(self, other: "Ledger") -> "Ledger":
        """Of two clients of one database."""
        return Ledger(
            self.told | other.told,
            self.replayed + other.replayed,
            self.refused + other.refused,
            self.silences + other.silences,
        )


def read_ledger(path: Path) -> Ledger:
    """Reads what is there; a last line that is still being written is left out."""
    ledger = Ledger()
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if not line.endswith("\n"):
            break
        facts = json.loads(line)
        event, request, at = facts.pop("event"), facts.pop("request"), facts.pop("at")
        match event:
            case "accepted":
                ledger.told[request] = Told(request, **facts, accepted_at=at)
            case "refused":
                ledger.refused[facts["status"], facts["code"]] += 1
            case "replayed":
                replayed = Replayed(request, facts["said"], facts["id"], facts["digest"])
                ledger.replayed.append(replayed)
            case "silence":
                ledger.silences += 1
            case "named":
                ledger.told[request].public_id = facts["id"]
            case "finished":
                told = ledger.told[request]
                told.public_id, told.finished, told.ended_at = facts["id"], facts["digest"], at
            case "broken":
                told = ledger.told[request]
                told.partial, told.ages, told.error = facts["text"], facts["ages"], facts["error"]
                told.ended_at = at
    return ledger
