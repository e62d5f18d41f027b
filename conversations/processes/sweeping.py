"""What dead processes left running comes to an end. Every living process looks after that."""

import logging
from datetime import timedelta
from pathlib import Path

from django.db.models import BooleanField, Exists, ExpressionWrapper, OuterRef, Q
from django.db.models.functions import Now

from conversations.models import Completion, ServerProcess
from conversations.processes import lockfile
from conversations.processes.journal import journals_replay
from conversations.processes.presence import HEARTBEAT_DEAD_AFTER_S
from conversations.services import completion_interrupt

logger = logging.getLogger(__name__)


def processes_sweep() -> int:
    """Ends as `interrupted` what dead processes left running; returns how many requests that were.

    A process is dead if its lock is free; where the lock cannot be asked (another host, another
    boot, no file), if its heartbeat is over 4 s old by the database's clock. What a living process
    runs is never touched. Several may sweep at once: each request is ended by one of them.
    """
    # A stopped process is asked too while it has requests running: it may have lost the database
    # at its end, or be one that was taken for dead and has not beaten since.
    left_running = Completion.objects.filter(
        process=OuterRef("pk"), status=Completion.Status.RUNNING
    )
    stale = Q(heartbeat_at__lt=Now() - timedelta(seconds=HEARTBEAT_DEAD_AFTER_S))
    suspects = ServerProcess.objects.filter(
        Q(stopped_at__isnull=True) | Exists(left_running)
    ).annotate(is_stale=ExpressionWrapper(stale, output_field=BooleanField()))
    swept = 0
    for process in suspects:
        held = lockfile.is_held(process.lock_path) if process.host == lockfile.this_host() else None
        if process.is_stale if held is None else not held:
            swept += _bury(process, remove_lock=held is False)
    return swept


def _bury(process: ServerProcess, *, remove_lock: bool) -> int:
    """Ends the requests of a dead process, each in a transaction of its own, then marks it. Before,
    those ends that it could not write itself."""
    if process.lock_path:  # its folder, if it is on this machine, need not be ours
        journals_replay(Path(process.lock_path).parent.parent / "journal")
    running = Completion.objects.filter(process=process, status=Completion.Status.RUNNING)
    interrupted = sum(
        completion_interrupt(pk) for pk in running.order_by("pk").values_list("pk", flat=True)
    )
    # A heartbeat since it was judged means that it lives after all. (Not "the same heartbeat":
    # SQLite compares times as text, and its own clock writes fewer digits than we do.)
    dead = ServerProcess.objects.filter(
        pk=process.pk, stopped_at=None, heartbeat_at__lte=process.heartbeat_at
    )
    was_marked = dead.update(stopped_at=Now())
    if remove_lock:
        Path(process.lock_path).unlink(missing_ok=True)
    if was_marked or interrupted:
        logger.warning("%s is dead; %d of its requests were interrupted", process, interrupted)
    return interrupted
