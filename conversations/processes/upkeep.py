"""What a web process does for the history beside its requests: it folds, takes away the old, and
keeps the database's picture of its indexes fresh."""

import logging
import threading
import time

from django.db import close_old_connections, connection

from conversations.idempotency import keys_prune
from conversations.retention.pruning import limits_now, prune
from conversations.retention.traces import log_empty
from conversations.storage.overdue import HAS_S
from conversations.usage.folding import days_fold, hours_fold

logger = logging.getLogger(__name__)

FOLD_EVERY_S = 60.0
PRUNE_EVERY_S = 3600.0


def analyse() -> None:
    """Has the database look at samples of its tables. Without, SQLite takes a status that nearly
    all requests have for as good a key as a user. PostgreSQL's autovacuum does so by itself."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA analysis_limit = 1000")
        cursor.execute("ANALYZE")


class Upkeep:
    """A thread of its own, for both may take minutes, and the heartbeat must not wait for them.
    Every web process has one: what one does, the others find done."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history-upkeep", daemon=True)
        self._prune_from = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once the batch that is under way is committed, or if the database says
        nothing."""
        self._stopping.set()
        self._thread.join(timeout=HAS_S)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(FOLD_EVERY_S):
                self._work()
        finally:
            connection.close()

    def _work(self) -> None:
        try:
            close_old_connections()
            hours_fold(should_stop=self._stopping.is_set)
            days_fold(should_stop=self._stopping.is_set)
            keys_prune(should_stop=self._stopping.is_set)
            if time.monotonic() >= self._prune_from:
                pruned = prune(limits_now(), should_stop=self._stopping.is_set)
                self._prune_from = time.monotonic() + PRUNE_EVERY_S
                if pruned:
                    log_empty()
                    logger.info("pruned what is too old: %s", pruned)
                if connection.vendor == "sqlite":
                    analyse()
        except Exception:
            logger.exception("upkeep of the history failed; it is tried again in a minute")
            connection.close()
