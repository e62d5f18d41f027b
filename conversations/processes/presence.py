"""Writes of the rows by which server processes know of one another. Not to be called from an event
loop's thread; database errors (django.db.Error) reach the caller."""

from uuid import UUID

from django.db.models.functions import Now

from conversations.models import ServerProcess

HEARTBEAT_DEAD_AFTER_S = 4.0


def process_register(*, uuid: UUID, host: str, pid: int, lock_path: str) -> int:
    """Makes the row of a process that holds its lock already; returns its primary key."""
    process = ServerProcess(uuid=uuid, host=host, pid=pid, lock_path=lock_path)
    process.started_at = process.heartbeat_at = Now()
    process.save(force_insert=True)
    return process.pk


def process_beat(process_pk: int) -> None:
    """Says that the process lives, by the database's clock; one that was taken for dead is back."""
    ServerProcess.objects.filter(pk=process_pk).update(heartbeat_at=Now(), stopped_at=None)


def process_stop(process_pk: int) -> None:
    """Says that the process ends. What it left running, if anything, is swept 4 s later."""
    ServerProcess.objects.filter(pk=process_pk).update(heartbeat_at=Now(), stopped_at=Now())
