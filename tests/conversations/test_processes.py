"""What a dead process left running is ended; what a living one runs is never touched."""

import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from conversations.models import Completion, CompletionContent, Message, ServerProcess
from conversations.processes import presence
from conversations.processes import registration as registration_module
from conversations.processes.lockfile import LockFile, is_held, this_host
from conversations.processes.presence import process_beat, process_register
from conversations.processes.registration import ProcessRegistration
from conversations.processes.sweeping import processes_sweep
from conversations.services import completions_flush

pytestmark = pytest.mark.django_db(transaction=True)

# Another Python process that holds the lock until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from conversations.processes.lockfile import LockFile
lock = LockFile(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def var_dir(settings, tmp_path: Path) -> Path:
    settings.VAR_DIR = tmp_path
    return tmp_path


@pytest.fixture
def holder(tmp_path: Path):  # type: ignore[no-untyped-def]
    """(child process, path of the lock that it holds)"""
    path = tmp_path / "run" / "other.lock"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child, path
    child.kill()
    child.wait()
    child.stdout.close()


def register(path: Path | str = "", *, host: str | None = None, age_s: float = 0) -> int:
    pk = process_register(uuid=uuid4(), host=host or this_host(), pid=1, lock_path=str(path))
    beaten_at = timezone.now() - timedelta(seconds=age_s)
    ServerProcess.objects.filter(pk=pk).update(heartbeat_at=beaten_at)
    return pk


def status_of(pk: int) -> str:
    return Completion.objects.get(pk=pk).status


# ---- who is dead ---------------------------------------------------------------------------------


def test_killed_process_is_swept_and_its_flushed_text_becomes_messages(
    alice, history, holder
) -> None:
    child, path = holder
    process = register(path)
    chat = history.start(alice, [("user", "hello")], process_id=process)
    silent = history.start(alice, [("user", "silent")], process_id=process)
    completion = history.start(alice, prompt="once", process_id=process)
    completions_flush({chat: (("hi the", ""), 3), completion: (("upon",), 2)})
    assert processes_sweep() == 0

    child.send_signal(signal.SIGKILL)
    child.wait()
    assert processes_sweep() == 3
    row = Completion.objects.get(pk=chat)
    assert (row.status, row.completion_tokens, row.duration_ms) == ("interrupted", 3, None)
    assert row.finished_at is not None
    assert "ended before" in row.error
    assert [(m.content, m.choice_index) for m in row.outputs.all()] == [("hi the", 0)]
    assert row.content.output == []
    assert status_of(silent) == "interrupted"
    assert not Message.objects.filter(completion=silent).exists()
    assert CompletionContent.objects.get(completion=completion).output == [
        {"text": "upon", "finish_reason": None}
    ]
    assert ServerProcess.objects.get(pk=process).stopped_at is not None
    assert not path.exists()
    assert processes_sweep() == 0


def test_a_dead_process_whose_last_heartbeat_is_by_the_databases_clock_is_marked(
    alice, history, tmp_path
) -> None:
    lock = LockFile(tmp_path / "run" / "x.lock")
    process = presence.process_register(
        uuid=uuid4(), host=this_host(), pid=1, lock_path=str(lock.path)
    )
    process_beat(process)
    processes_sweep()
    assert ServerProcess.objects.get(pk=process).stopped_at is None
    lock.let_go()
    processes_sweep()
    assert ServerProcess.objects.get(pk=process).stopped_at is not None


def test_living_process_is_left_alone_even_when_its_heartbeat_is_late(
    alice, history, holder
) -> None:
    _, path = holder
    process = register(path, age_s=3600)
    pk = history.start(alice, [("user", "hello")], process_id=process)
    assert processes_sweep() == 0
    assert status_of(pk) == "running"
    assert ServerProcess.objects.get(pk=process).stopped_at is None
    assert path.exists()


@pytest.mark.parametrize(("age_s", "status"), [(2, "running"), (5, "interrupted")])
@pytest.mark.parametrize("where", ["another host", "no lock file"])
def test_where_no_lock_can_be_asked_the_heartbeat_decides(
    alice, history, tmp_path, where: str, age_s: float, status: str
) -> None:
    if where == "another host":
        path = tmp_path / "free.lock"
        path.touch()
        process = register(path, host="elsewhere/boot", age_s=age_s)
    else:
        process = register(tmp_path / "gone.lock", age_s=age_s)
    pk = history.start(alice, [("user", "hello")], process_id=process)
    processes_sweep()
    assert status_of(pk) == status
    assert (ServerProcess.objects.get(pk=process).stopped_at is None) == (status == "running")
    assert where != "another host" or path.exists()


def test_what_a_stopped_process_left_running_is_swept(alice, history) -> None:
    process = register(age_s=5)
    ServerProcess.objects.update(stopped_at=timezone.now())
    pk = history.start(alice, [("user", "hello")], process_id=process)
    assert processes_sweep() == 1
    assert status_of(pk) == "interrupted"


def test_process_that_was_taken_for_dead_is_back_with_its_next_beat(alice, history) -> None:
    process = register(host="elsewhere/boot", age_s=5)
    pk = history.start(alice, [("user", "hello")], process_id=process)
    processes_sweep()
    process_beat(process)
    assert ServerProcess.objects.get(pk=process).stopped_at is None
    history.finish(pk, "hi there")
    assert status_of(pk) == "completed"
    assert Message.objects.filter(completion=pk).count() == 1


def test_sweepers_at_once_end_each_request_once(alice, history, at_once) -> None:
    process = register(age_s=5)
    pks = [history.start(alice, [("user", str(i))], process_id=process) for i in range(12)]
    completions_flush(dict.fromkeys(pks, (("part", "other part"), 1)))
    swept = at_once(4, lambda _: processes_sweep())
    assert sum(swept) == 12
    assert Message.objects.filter(role="assistant").count() == 24


def test_request_without_its_content_row_does_not_stop_the_sweep(alice, history) -> None:
    process = register(age_s=5)
    bare, other = (history.start(alice, prompt="x", process_id=process) for _ in range(2))
    CompletionContent.objects.filter(completion=bare).delete()
    assert processes_sweep() == 2
    assert (status_of(bare), status_of(other)) == ("interrupted", "interrupted")


# ---- the lock ------------------------------------------------------------------------------------


def test_lock_is_held_by_one_and_let_go(tmp_path: Path) -> None:
    path = tmp_path / "run" / "a.lock"
    assert is_held(str(path)) is None
    assert is_held("") is None
    with LockFile(path):
        assert is_held(str(path)) is True
        with pytest.raises(BlockingIOError):
            LockFile(path)
    assert not path.exists()
    path.touch()
    assert is_held(str(path)) is False


def test_lock_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "a.lock")
    program = "print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        os.close(lock.descriptor)
        assert is_held(str(lock.path)) is False
        child.communicate(b"\n")


# ---- the registration ----------------------------------------------------------------------------


@pytest.fixture
def registration(monkeypatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(registration_module, "BEAT_EVERY_S", 0.05)
    registration = ProcessRegistration()
    yield registration
    registration.stop()


def wait_until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_registration_sweeps_at_once_beats_and_marks_its_end(
    alice, history, registration, tmp_path
) -> None:
    left = history.start(alice, [("user", "hello")], process_id=register(age_s=5))
    registration.start()
    assert status_of(left) == "interrupted"
    row = ServerProcess.objects.get(pk=registration.process_id)
    assert (row.host, row.pid, row.stopped_at) == (this_host(), os.getpid(), None)
    assert Path(row.lock_path).parent == tmp_path / "run"
    assert is_held(row.lock_path) is True

    def has_beaten() -> bool:
        return ServerProcess.objects.get(pk=row.pk).heartbeat_at > row.heartbeat_at

    wait_until(has_beaten)
    mine = history.start(alice, [("user", "mine")], process_id=row.pk)
    later = history.start(alice, [("user", "later")], process_id=register(age_s=5))
    wait_until(lambda: status_of(later) == "interrupted")
    assert status_of(mine) == "running"

    registration.stop()
    registration.stop()
    assert ServerProcess.objects.get(pk=row.pk).stopped_at is not None
    assert not Path(row.lock_path).exists()
    # Stopped for good: no beat brings it back.
    time.sleep(0.2)
    assert ServerProcess.objects.get(pk=row.pk).stopped_at is not None


def test_failed_start_leaves_no_lock(registration, monkeypatch, tmp_path) -> None:
    def fail(**_: object) -> int:
        raise DatabaseError("no database")

    monkeypatch.setattr(presence, "process_register", fail)
    with pytest.raises(DatabaseError):
        registration.start()
    assert list((tmp_path / "run").iterdir()) == []
    registration.stop()


def test_heartbeat_survives_a_lost_database_and_logs_it_once(
    alice, history, registration, monkeypatch, caplog
) -> None:
    registration.start()
    beat, failures = process_beat, []

    def fail(pk: int) -> None:
        failures.append(pk)
        raise DatabaseError("gone")

    monkeypatch.setattr(presence, "process_beat", fail)
    with caplog.at_level(logging.WARNING, "conversations.processes.registration"):
        wait_until(lambda: len(failures) >= 3)
        monkeypatch.setattr(presence, "process_beat", beat)
        before = ServerProcess.objects.get(pk=registration.process_id).heartbeat_at
        other = history.start(
            alice, [("user", "hello")], process_id=register(host="elsewhere/boot", age_s=5)
        )

        def has_beaten() -> bool:
            row = ServerProcess.objects.get(pk=registration.process_id)
            return row.heartbeat_at > before

        wait_until(has_beaten)
    messages = [
        r.getMessage() for r in caplog.records if r.name == "conversations.processes.registration"
    ]
    assert len(messages) == 2
    assert "failed" in messages[0]
    assert "answers again" in messages[1]
    # Other hosts get the time to beat again before they are judged.
    time.sleep(0.3)
    assert status_of(other) == "running"


def test_heartbeat_thread_leaves_no_connection_behind(registration) -> None:
    registration.start()
    time.sleep(0.2)
    thread = registration._thread
    registration.stop()
    assert not thread.is_alive()
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
            assert cursor.fetchone()[0] == 0
