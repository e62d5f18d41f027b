"""What a client was told, written down before it acts on it: one JSON object a line, fsynced.

A request is named by the `x-request-id` of its answer, which a client sees before any id in a body.
"""

import hashlib
import json
import os
import threading
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
        line = json.dumps({"event": event, "request": request, **facts}) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode())
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(slots=True)
class Told:
    """One accepted request as its client knows it.

    `asked`: digest of the prompt, or of the chat's [role, content] pairs. `said`: its new user
    message or prompt, which no other request has. `partial`: what had come when it broke off.
    """

    request: str
    kind: str
    streamed: bool
    said: str
    asked: str
    public_id: str | None = None
    finished: str | None = None
    partial: str | None = None


@dataclass(slots=True)
class Ledger:
    """Everything one client was told. `refused`: (status, code) -> how often."""

    told: dict[str, Told] = field(default_factory=dict)
    refused: Counter[tuple[int, str | None]] = field(default_factory=Counter)

    @property
    def finished(self) -> list[Told]:
        return [told for told in self.told.values() if told.finished is not None]


def read_ledger(path: Path) -> Ledger:
    """Reads what is there; a last line that is still being written is left out."""
    ledger = Ledger()
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for line in lines:
        if not line.endswith("\n"):
            break
        facts = json.loads(line)
        event, request = facts.pop("event"), facts.pop("request")
        if event == "accepted":
            ledger.told[request] = Told(request, **facts)
        elif event == "refused":
            ledger.refused[facts["status"], facts["code"]] += 1
        elif event == "named":
            ledger.told[request].public_id = facts["id"]
        elif event == "finished":
            ledger.told[request].public_id = facts["id"]
            ledger.told[request].finished = facts["digest"]
        elif event == "broken":
            ledger.told[request].partial = facts["text"]
    return ledger
