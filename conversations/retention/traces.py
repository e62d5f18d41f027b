"""Traces of erased texts in SQLite's files. Not to be called in a transaction.

On PostgreSQL they are the operator's affair (docs/data.md): nothing is done there.
"""

from typing import Any

from django.db import connection

LOG_WAITS_MS = 500
"""For readers, while writers wait too."""

LOG_IN_USE = (
    "Somebody reads the database, so its write-ahead log still holds old pages; it is overwritten "
    "in time. Run the command again to be sure."
)


def file_rewrite() -> bool:
    """Writes the file anew and empties its write-ahead log: no trace of an erased text stays, nor
    of drafts that were overwritten long ago. Nobody can write meanwhile. False: a reader kept the
    log from being emptied."""
    if connection.vendor != "sqlite":
        return True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")
        return _log_empty(cursor)


def log_empty() -> bool:
    """Empties the write-ahead log, whose end may hold pages from long ago: it is written over from
    its beginning. False: a reader kept it from being emptied, for half a second."""
    if connection.vendor != "sqlite":
        return True
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        (usual_ms,) = cursor.fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {LOG_WAITS_MS}")
        try:
            return _log_empty(cursor)
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {usual_ms}")


def _log_empty(cursor: Any) -> bool:
    cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    is_busy, _, _ = cursor.fetchone()
    return not is_busy
