"""Ends that the database could not take are in it once it is back: all of them, once, and no word
more than may be kept."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import DataError, OperationalError
from django.utils import timezone

from accounts.models import User
from conversations.idempotency import KeyUse, answered_before
from conversations.models import Completion, Conversation, IdempotencyKey, Message, Review
from conversations.processes import journal as module
from conversations.processes import presence
from conversations.processes.journal import (
    SET_ASIDE,
    Ended,
    Journal,
    JournalFile,
    folder,
    journals_replay,
    set_aside_bytes,
)
from conversations.processes.lockfile import LockFile, this_host
from conversations.processes.sweeping import processes_sweep
from conversations.retention.erasing import user_erase
from conversations.services import ChoiceEnd, CompletionEnd

pytestmark = pytest.mark.django_db(transaction=True)

ENDED_AT = timezone.now() - timedelta(seconds=90)


@pytest.fixture(autouse=True)
def var_dir(settings, tmp_path: Path) -> Path:
    settings.VAR_DIR = tmp_path
    return tmp_path


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal()
    yield journal
    journal.close()


def ended(pk: int, *texts: str, **fields) -> Ended:
    values = {
        "status": Completion.Status.COMPLETED,
        "choices": tuple(ChoiceEnd(i, text, "stop") for i, text in enumerate(texts)),
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "first_token_ms": 12,
        "duration_ms": 345,
        "cached_tokens": 3,
        "ended_at": ENDED_AT,
    }
    public_id = Completion.objects.values_list("public_id", flat=True).get(pk=pk)
    return Ended(public_id, CompletionEnd(**{**values, **fields}))


def left_by_a_dead_process(*lines: bytes, journals: Path | None = None) -> Path:
    path = (journals or folder()) / f"{uuid4()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))
    return path


def status_of(pk: int) -> str:
    return Completion.objects.get(pk=pk).status


# ---- written -------------------------------------------------------------------------------------


def test_an_end_is_a_line_on_the_disk_that_nobody_else_may_read(
    alice, history, journal, monkeypatch
) -> None:
    synced = []

    def fsync(descriptor, real=os.fsync):
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path, path.read_bytes() if path.is_file() else None))

    monkeypatch.setattr(os, "fsync", fsync)
    uuid = uuid4()
    journal.open(uuid)
    assert not folder().exists(), "it is made when it is needed"
    assert not journal.is_pending
    pk = history.start(alice, [("user", "hello")])
    journal.append(ended(pk, "北京 😀 \n\x01"))
    assert journal.is_pending
    (path,) = folder().iterdir()
    assert path.name == f"{uuid}.jsonl"
    assert (path.stat().st_mode & 0o777, folder().stat().st_mode & 0o777) == (0o600, 0o700)
    (line,) = path.read_bytes().splitlines(keepends=True)
    assert json.loads(line)["end"]["choices"][0]["text"] == "北京 😀 \n\x01"
    # The whole line, then the names of the file and of its folder.
    assert synced == [(path, line), (folder(), None), (folder().parent, None)]


def test_replayed_it_is_the_end_that_it_would_have_been(alice, history, journal) -> None:
    pk = history.start(alice, [("user", "hello")])
    journal.append(ended(pk, "hi there", "or so"))
    journal.replay()
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.finish_reason, row.finished_at) == ("completed", "stop", ENDED_AT)
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (7, 5, 3)
    assert (row.first_token_ms, row.duration_ms, row.error) == (12, 345, "")
    answers = row.outputs.order_by("choice_index")
    assert [answer.content for answer in answers] == ["hi there", "or so"]
    assert not journal.is_pending
    assert list(folder().iterdir()) == []


@pytest.mark.parametrize("status", ["completed", "cancelled", "interrupted", "failed"])
def test_every_kind_of_end_comes_back(alice, history, journal, status) -> None:
    pk = history.start(alice, prompt="hello")
    journal.append(ended(pk, "par", status=Completion.Status(status), error="It broke."))
    journal.replay()
    row = Completion.objects.select_related("content").get(pk=pk)
    assert (row.status, row.error) == (status, "It broke.")
    assert row.content.output == [{"text": "par", "finish_reason": "stop"}]


def test_an_answer_for_an_idempotency_key_goes_with_its_end(alice, history, journal) -> None:
    use = KeyUse.of(b"key", b"request")
    pk = history.start(alice, prompt="hello", idempotency=use)
    journal.append(ended(pk, "hi", answer='{"said": "hi"}'))
    journal.replay()
    answered = answered_before(alice.pk, use)
    assert answered is not None
    assert answered.answer == '{"said": "hi"}'


def test_nothing_of_a_text_that_may_not_be_kept_is_written(alice, history, journal) -> None:
    pk = history.start(alice, [("user", "secret")], keeps_text=False)
    whole = ended(pk, "a secret", "two secrets", answer="a secret", error="a secret")
    journal.append(whole.without_text())
    (path,) = folder().iterdir()
    assert b"secret" not in path.read_bytes()
    journal.replay()
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.finish_reason, row.completion_tokens) == ("completed", "stop", 5)


# ---- replayed ------------------------------------------------------------------------------------


@pytest.fixture
def away(monkeypatch):
    """away(times): so often the database takes nothing. Its `put` are the ends that it took."""

    class Away:
        times = 0
        put: list[int]

        def __call__(self, times: int) -> None:
            self.times = times

    away = Away()
    away.put = []
    finish = module.completion_finish

    def finish_or_fail(pk, end):
        if away.times:
            away.times -= 1
            raise OperationalError("gone")
        finish(pk, end)
        away.put.append(pk)

    monkeypatch.setattr(module, "completion_finish", finish_or_fail)
    return away


def test_while_the_database_is_away_all_of_it_stays_and_then_each_end_is_given_once(
    alice, history, journal, away
) -> None:
    pks = [history.start(alice, [("user", str(number))]) for number in range(3)]
    for pk in pks:
        journal.append(ended(pk, "hi"))
    assert journal.length == 3
    away(1)
    with pytest.raises(OperationalError):
        journal.replay()
    assert away.put == []
    assert journal.is_pending
    assert journal.length == 3
    (path,) = folder().iterdir()
    assert len(path.read_bytes().splitlines()) == 3
    journal.replay()
    assert away.put == pks
    assert not journal.is_pending
    assert journal.length == 0


def test_a_replay_that_was_broken_off_goes_on_where_it_was(
    alice, history, journal, monkeypatch
) -> None:
    pks = [history.start(alice, [("user", str(number))]) for number in range(3)]
    for pk in pks:
        journal.append(ended(pk, "hi"))
    put, finish = [], module.completion_finish

    def finish_one(pk, end):
        if put == pks[:1]:
            put.append("failed")
            raise OperationalError("gone again")
        finish(pk, end)
        put.append(pk)

    monkeypatch.setattr(module, "completion_finish", finish_one)
    with pytest.raises(OperationalError):
        journal.replay()
    assert journal.length == 2
    journal.replay()
    assert put == [pks[0], "failed", pks[1], pks[2]]
    assert journal.length == 0


def test_what_is_written_during_a_replay_is_replayed_next(
    alice, history, journal, monkeypatch
) -> None:
    first, second = (history.start(alice, [("user", str(number))]) for number in range(2))
    journal.append(ended(first, "one"))
    finish = module.completion_finish

    def finish_and_write(pk, end):
        finish(pk, end)
        if pk == first:
            journal.append(ended(second, "two"))

    monkeypatch.setattr(module, "completion_finish", finish_and_write)
    journal.replay()
    assert (status_of(first), status_of(second)) == ("completed", "running")
    assert journal.is_pending
    assert journal.length == 1
    journal.replay()
    assert status_of(second) == "completed"
    assert not journal.is_pending


def test_lines_that_are_replayed_twice_change_nothing(alice, history) -> None:
    """A kill between the commit and the removal of the file."""
    pk = history.start(alice, [("user", "hello")])
    line = ended(pk, "hi").line
    left_by_a_dead_process(line)
    assert journals_replay(folder()) == 1
    # What has happened since is not undone.
    conversation = Conversation.objects.get()
    reviewer = User.objects.create_user("reviewer")
    Review.objects.create(conversation=conversation, reviewer=reviewer, score=5)
    Conversation.objects.update(reviewed_at=conversation.updated_at)
    before = [*Completion.objects.values(), *Message.objects.values()]
    conversations = [*Conversation.objects.values()]
    left_by_a_dead_process(line, line)
    assert journals_replay(folder()) == 2
    assert [*Completion.objects.values(), *Message.objects.values()] == before
    assert [*Conversation.objects.values()] == conversations


@pytest.mark.parametrize("kept", [0, 1, 20, -2, -1])
def test_a_line_that_was_cut_short_counts_as_never_written(alice, history, kept) -> None:
    """A kill in the middle of a write: its client was not told that the answer is complete."""
    whole, cut = (history.start(alice, [("user", str(number))]) for number in range(2))
    left_by_a_dead_process(ended(whole, "hi").line, ended(cut, "never told").line[:kept])
    assert journals_replay(folder()) == 1
    assert (status_of(whole), status_of(cut)) == ("completed", "running")
    assert list(folder().iterdir()) == []


def test_of_what_was_erased_meanwhile_no_text_comes_back(alice, history, journal) -> None:
    use = KeyUse.of(b"key", b"request")
    pk = history.start(alice, [("user", "hello")], idempotency=use)
    journal.append(ended(pk, "hi", answer='{"said": "hi"}'))
    user_erase(alice.pk)
    journal.replay()
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.completion_tokens) == ("completed", 5)
    assert not Message.objects.exists()
    assert IdempotencyKey.objects.get().answer == ""


def test_the_command_that_erases_a_user_looks_into_journals_too(alice, history) -> None:
    """No server runs, and the last one that did has left one."""
    pk = history.start(alice, [("user", "hello")])
    path = left_by_a_dead_process(ended(pk, "hi").line)
    call_command("erase_user", "alice", "--yes", "--no-vacuum", stdout=StringIO())
    assert not path.exists()
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.conversation_id) == ("completed", None)
    assert not Message.objects.exists()


def test_of_what_is_not_there_any_more_nothing_comes_back(alice, history, journal) -> None:
    """Another database, or an older one from a backup."""
    gone, there = (history.start(alice, prompt=str(number)) for number in range(2))
    journal.append(ended(gone, "hi"))
    journal.append(ended(there, "hi"))
    Completion.objects.filter(pk=gone).delete()
    journal.replay()
    assert status_of(there) == "completed"
    assert not journal.is_pending


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"completion": "x", "end": {}}\n', None])
def test_a_line_that_no_waiting_mends_is_set_aside(alice, history, monkeypatch, line) -> None:
    refused, other = (history.start(alice, prompt=str(number)) for number in range(2))
    if line is None:
        line, finish = ended(refused, "hi").line, module.completion_finish

        def finish_others(pk, end):
            if pk == refused:
                raise DataError("not for this database")
            finish(pk, end)

        monkeypatch.setattr(module, "completion_finish", finish_others)
    left_by_a_dead_process(line, ended(other, "hi").line)
    assert set_aside_bytes() == 0
    journals_replay(folder())
    assert status_of(other) == "completed"
    (path,) = folder().iterdir()
    assert path.name == SET_ASIDE
    assert set_aside_bytes() == len(line)
    assert path.read_bytes() == line
    assert path.stat().st_mode & 0o777 == 0o600


# ---- the disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["write", "sync"])
def test_a_full_disk_is_told_and_the_end_waits_in_memory(
    alice, history, journal, monkeypatch, when
) -> None:
    one, two, three = (history.start(alice, prompt=str(number)) for number in range(3))
    journal.append(ended(one, "hi"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_some(descriptor, data, place, real=os.pwrite):
        if place > before:
            full()
        return real(descriptor, data[:7], place)

    (path,) = folder().iterdir()
    before = path.stat().st_size
    with monkeypatch.context() as patched:
        patched.setattr(os, *(("pwrite", write_some) if when == "write" else ("fsync", full)))
        with pytest.raises(OSError, match="No space"):
            journal.append(ended(two, "hi"))
    assert path.stat().st_size == before, "half a line would spoil the next"
    journal.append(ended(three, "hi"))
    assert len(path.read_bytes().splitlines()) == 2
    assert journal.length == 3
    journal.replay()
    assert journal.length == 0
    assert {status_of(pk) for pk in (one, two, three)} == {"completed"}
    assert not journal.is_pending


def test_a_disk_that_takes_no_file_at_all_is_told(alice, history, journal, var_dir) -> None:
    (var_dir / "journal").write_text("in the way")
    pk = history.start(alice, prompt="hello")
    with pytest.raises(OSError):
        journal.append(ended(pk, "hi"))
    assert journal.is_pending
    journal.replay()
    assert status_of(pk) == "completed"


def test_one_who_looks_for_journals_of_the_dead_is_waited_for(
    alice, history, journal, monkeypatch
) -> None:
    """He has opened this one just when its owner had removed it, and so made it again."""
    uuid = uuid4()
    journal.open(uuid)
    looking = JournalFile(folder() / f"{uuid}.jsonl")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: looking.release())
    pk = history.start(alice, prompt="hello")
    journal.append(ended(pk, "hi"))
    journal.replay()
    assert status_of(pk) == "completed"


# ---- dead processes, and living ones -------------------------------------------------------------

# Another process that has written into its journal, and holds it until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
import django
django.setup()
from conversations.processes.journal import JournalFile
file = JournalFile(Path(sys.argv[1]))
file.append(sys.argv[2].encode() + b"\\n")
print("written", flush=True)
time.sleep(600)
"""


def test_the_journal_of_a_living_process_is_its_own(alice, history, var_dir) -> None:
    pk = history.start(alice, [("user", "hello")])
    path = folder() / f"{uuid4()}.jsonl"
    line = ended(pk, "hi").line.decode().strip()
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), line],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        assert journals_replay(folder()) == 0
        assert status_of(pk) == "running"
        assert path.exists()
        child.kill()
    assert journals_replay(folder()) == 1
    assert status_of(pk) == "completed"
    assert not path.exists()


def test_several_who_find_a_dead_processs_journal_replay_it_once(alice, history, at_once) -> None:
    pks = [history.start(alice, [("user", str(number))]) for number in range(12)]
    left_by_a_dead_process(*(ended(pk, "hi").line for pk in pks))
    at_once(4, lambda _: journals_replay(folder()))
    assert {status_of(pk) for pk in pks} == {"completed"}
    assert Message.objects.filter(role="assistant").count() == 12
    assert list(folder().iterdir()) == []


def test_while_the_database_is_away_a_dead_processs_journal_stays(alice, history, away) -> None:
    pk = history.start(alice, prompt="hello")
    path = left_by_a_dead_process(ended(pk, "hi").line)
    away(1)
    with pytest.raises(OperationalError):
        journals_replay(folder())
    assert path.exists()
    assert journals_replay(folder()) == 1
    assert status_of(pk) == "completed"


def test_a_journal_that_cannot_be_read_keeps_nobody_from_the_others(
    alice, history, caplog, monkeypatch
) -> None:
    pks = [history.start(alice, prompt=str(number)) for number in range(2)]
    paths = sorted(left_by_a_dead_process(ended(pk, "hi").line) for pk in pks)

    def lines(self, start, end, real=JournalFile.lines):
        if self.path == paths[0]:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, start, end)

    monkeypatch.setattr(JournalFile, "lines", lines)
    assert journals_replay(folder()) == 1
    assert [path.exists() for path in paths] == [True, False]
    assert str(paths[0]) in caplog.text


def test_a_dead_processs_journal_comes_before_the_sweep(alice, history, tmp_path) -> None:
    """Also that of one with a var directory of its own. What it had not ended is interrupted."""
    theirs = tmp_path / "theirs"
    lock = LockFile(theirs / "run" / "x.lock")
    process = presence.process_register(
        uuid=uuid4(), host=this_host(), pid=1, lock_path=str(lock.path)
    )
    lock.let_go()
    told, cut = (history.start(alice, [("user", str(i))], process_id=process) for i in range(2))
    left_by_a_dead_process(ended(told, "hi").line, journals=theirs / "journal")
    assert processes_sweep() == 1
    assert (status_of(told), status_of(cut)) == ("completed", "interrupted")
    assert Completion.objects.get(pk=told).outputs.get().content == "hi"


def test_where_another_host_has_swept_first_the_true_end_replaces_its(
    alice, history, journal
) -> None:
    pk = history.start(alice, [("user", "hello")])
    journal.append(ended(pk, "hi there"))
    history.finish(pk, "hi", status="interrupted", error="ended before")
    journal.replay()
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.error, row.finished_at) == ("completed", "", ENDED_AT)
    assert row.outputs.get().content == "hi there"


def test_what_a_process_leaves_at_its_orderly_end_is_for_the_next(
    alice, history, journal, away
) -> None:
    pk = history.start(alice, prompt="hello")
    journal.append(ended(pk, "hi"))
    journal.close()
    assert journals_replay(folder()) == 1
    assert status_of(pk) == "completed"
