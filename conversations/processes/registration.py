"""This web process's presence in the database, for as long as it lives."""

import logging
import os
import threading
import time
from pathlib import Path
from uuid import uuid4

from django.conf import settings
from django.db import close_old_connections, connection

from conversations.processes import presence
from conversations.processes.journal import folder, journal, journals_replay
from conversations.processes.lockfile import LockFile, this_host
from conversations.processes.sweeping import processes_sweep
from conversations.processes.upkeep import Upkeep
from conversations.storage.overdue import overdue

logger = logging.getLogger(__name__)

BEAT_EVERY_S = 1.0


class ProcessRegistration:
    """Registers this process, then beats and sweeps every second in a thread of its own; beside it
    runs the upkeep of the history.

    `start` and `stop` talk to the database: call them from a thread without an event loop. While it
    is started, `process_id` is the primary key that this process's completions name.
    """

    process_id: int

    def __init__(self) -> None:
        self._uuid = uuid4()
        self._lock: LockFile | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-heartbeat", daemon=True)
        self._upkeep = Upkeep()
        self.is_failing = False
        """Whether the last heartbeat could not be written."""
        self._sweep_from = time.monotonic()

    def start(self) -> None:
        """Takes the lock, then makes the row (nobody may find its lock free), then replays and
        sweeps what dead processes left. Raises OSError or a database error, and then holds
        nothing."""
        lock = LockFile(Path(settings.VAR_DIR) / "run" / f"{self._uuid}.lock")
        try:
            self.process_id = presence.process_register(
                uuid=self._uuid, host=this_host(), pid=os.getpid(), lock_path=str(lock.path)
            )
            journals_replay(folder())
            processes_sweep()
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        journal.open(self._uuid)
        self._thread.start()
        self._upkeep.start()

    def stop(self) -> None:
        """Marks the process as stopped. A second call does nothing; a lost database is only logged,
        for the released lock says the same."""
        if self._lock is None:
            return
        self._upkeep.stop()
        self._stopping.set()
        self._thread.join()
        try:
            with overdue.watched():
                presence.process_stop(self.process_id)
                journal.replay()
        except Exception:
            logger.exception("this server process could not be marked as stopped")
        journal.close()
        self._lock.release()
        self._lock = None

    def _run(self) -> None:
        try:
            while not self._stopping.wait(BEAT_EVERY_S):
                self._beat()
        finally:
            connection.close()

    def _beat(self) -> None:
        try:
            close_old_connections()
            with overdue.watched():
                self._beat_and_sweep()
        except Exception:
            # Whatever it was, a heartbeat that stops would have this process taken for dead.
            if not self.is_failing:
                logger.exception("heartbeat failed; it is tried again every second")
                self.is_failing = True
            connection.close()

    def _beat_and_sweep(self) -> None:
        presence.process_beat(self.process_id)
        if self.is_failing:
            logger.warning("the database answers again; the heartbeat goes on")
            self.is_failing = False
            # All heartbeats stood still while the database was away. Those of other hosts get the
            # time to beat again before they are taken for dead.
            self._sweep_from = time.monotonic() + presence.HEARTBEAT_DEAD_AFTER_S
        journals_replay(folder())
        if time.monotonic() >= self._sweep_from:
            processes_sweep()
