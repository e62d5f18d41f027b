"""Ends of requests that the database could not take, on this machine's disk until it does.

Each process has a file of its own, made when it is first needed and gone when all of it is in the
database: one JSON object a line, on the disk before the client is told that its answer is complete.
The file is locked while its process lives; who finds it free replays it. A line that is replayed
twice changes nothing.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import orjson
from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError

from conversations.models import Completion
from conversations.processes.lockfile import LockFile
from conversations.services import ChoiceEnd, CompletionEnd, completion_finish

logger = logging.getLogger(__name__)

DATABASE_AWAY = (OperationalError, InterfaceError, InternalError)
"""What waiting may mend."""

TRIES_TO_OPEN = 100
SET_ASIDE = "set-aside"
"""The file with lines that no waiting mends, for an operator to look at."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A request's end, with its public id: by that it is found in a restored database too."""

    public_id: str
    end: CompletionEnd

    @property
    def line(self) -> bytes:
        return orjson.dumps({"completion": self.public_id, "end": asdict(self.end)}) + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Raises ValueError, KeyError or TypeError for what is no such line."""
        said: dict[str, Any] = orjson.loads(line)
        end = said["end"]
        end["status"] = Completion.Status(end["status"])
        end["choices"] = tuple(ChoiceEnd(**choice) for choice in end["choices"])
        end["ended_at"] = datetime.fromisoformat(end["ended_at"])
        return cls(said["completion"], CompletionEnd(**end))

    def without_text(self) -> Self:
        """For a request of which no word may be written."""
        choices = tuple(replace(choice, text="") for choice in self.end.choices)
        return replace(self, end=replace(self.end, choices=choices, error="", answer=""))


class JournalFile(LockFile):
    """One journal on the disk, locked by whoever writes or replays it.

    Raises OSError where the disk does not do its part; BlockingIOError if another holds it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = os.fstat(self.descriptor).st_size

    def append(self, line: bytes) -> None:
        """Returns when the line is on the disk; if it fails, it is as if nothing was written."""
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self.descriptor, line[written:], self.size + written)
            os.fsync(self.descriptor)
            if not self.size:
                sync_folder(self.path.parent)
                sync_folder(self.path.parent.parent)
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(line)

    def lines(self, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """Each line between these places, and where it ends. What follows the last line end was cut
        short when its process was killed: nobody was told of it."""
        place = start
        with self.path.open("rb") as file:
            file.seek(start)
            while place < end and (line := file.readline()).endswith(b"\n"):
                place += len(line)
                yield line, place


def sync_folder(path: Path) -> None:
    """Has the disk know of the names in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """This process's: `journal` below. Its methods block, and may be called from any thread."""

    def __init__(self) -> None:
        self._writing = threading.Lock()
        self._replaying = threading.Lock()
        self._uuid = uuid4()
        self._file: JournalFile | None = None
        self._replayed_to = 0
        self._lines = 0
        """In the file, and not replayed."""
        self._not_on_disk: deque[Ended] = deque()
        """What the disk did not take either. Its clients know, and it is lost with the process."""

    def open(self, uuid: UUID) -> None:
        """Name the file, before it is needed."""
        self._uuid = uuid

    @property
    def length(self) -> int:
        """So many ends wait here for the database."""
        return self._lines + len(self._not_on_disk)

    @property
    def is_pending(self) -> bool:
        """Whether there are ends that the database does not have yet."""
        return self._file is not None or bool(self._not_on_disk)

    def append(self, ended: Ended) -> None:
        """When it returns, the end is as good as in the database. Raises OSError."""
        with self._writing:
            try:
                if self._file is None:
                    self._file = self._opened()
                self._file.append(ended.line)
                self._lines += 1
            except OSError:
                self._not_on_disk.append(ended)
                raise

    def _opened(self) -> JournalFile:
        for _ in range(TRIES_TO_OPEN):
            try:
                return JournalFile(folder() / f"{self._uuid}.jsonl")
            except BlockingIOError:  # one who looks for journals of the dead has it for a moment
                time.sleep(0.01)
        raise OSError(f"the journal of this process is locked by another, in {folder()}")

    def replay(self) -> None:
        """Give the database all that is there. Raises `DATABASE_AWAY`, and OSError."""
        with self._replaying:
            with self._writing:
                file, end = self._file, self._file.size if self._file else 0
            if file is not None:
                for line, place in file.lines(self._replayed_to, end):
                    line_replay(line, file.path.parent)
                    with self._writing:
                        self._replayed_to, self._lines = place, self._lines - 1
            while self._not_on_disk:
                put(self._not_on_disk[0])
                self._not_on_disk.popleft()
            with self._writing:
                if file is not None and self._replayed_to == file.size:
                    file.release()
                    self._file, self._replayed_to = None, 0

    def close(self) -> None:
        """Let go of the file; what is in it is for another process, or for the next start."""
        with self._writing:
            file, self._file = self._file, None
            self._replayed_to = self._lines = 0
            self._not_on_disk.clear()
            if file is not None:
                file.let_go()


journal = Journal()


def folder() -> Path:
    return Path(settings.VAR_DIR) / "journal"


def set_aside_bytes() -> int:
    """How much lies there for an operator to look at."""
    try:
        return (folder() / SET_ASIDE).stat().st_size
    except FileNotFoundError:
        return 0


def journals_replay(journals: Path) -> int:
    """Replays what dead processes left in this folder; returns how many ends that were. What cannot
    be read is logged, and stays. Raises `DATABASE_AWAY`."""
    replayed = 0
    for path in sorted(journals.glob("*.jsonl")):
        try:
            replayed += _replay_dead(path)
        except BlockingIOError:
            continue  # its process lives, or another one replays it just now
        except OSError:
            logger.exception("the journal %s could not be replayed", path)
    return replayed


def _replay_dead(path: Path) -> int:
    file = JournalFile(path)
    replayed = 0
    try:
        for line, _ in file.lines(0, file.size):
            line_replay(line, path.parent)
            replayed += 1
    except BaseException:
        file.let_go()
        raise
    file.release()
    if replayed:
        logger.warning(
            "%d ends were replayed from the journal of a dead process, %s", replayed, path
        )
    return replayed


def line_replay(line: bytes, journals: Path) -> None:
    """Raises `DATABASE_AWAY`. A line that the database will never take is set aside."""
    try:
        put(Ended.read(line))
    except (*DATABASE_AWAY, OSError):
        raise
    except Exception:
        logger.exception("a line of a journal was set aside, in %s", journals / SET_ASIDE)
        with open(journals / SET_ASIDE, "ab", opener=_private) as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def put(ended: Ended) -> None:
    """Gives the request its end in the database, if it is there still."""
    found = Completion.objects.filter(public_id=ended.public_id)
    pk = found.values_list("pk", flat=True).first()
    try:
        if pk is None:
            raise Completion.DoesNotExist
        completion_finish(pk, ended.end)
    except Completion.DoesNotExist:
        logger.warning("%s, whose end was in a journal, is not there", ended.public_id)
