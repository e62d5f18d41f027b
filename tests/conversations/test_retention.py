"""What is too old goes, what is not stays, and nothing that runs is touched."""

import threading
from dataclasses import asdict, replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.utils import timezone
from pydantic import ValidationError

from accounts.models import ApiKey, AuditEvent
from config.env import ServerSettings
from config.reading import explain
from conversations.models import (
    Completion,
    CompletionContent,
    Conversation,
    Label,
    Message,
    ModelDay,
    Review,
    UsageHour,
    UserDay,
)
from conversations.processes import upkeep
from conversations.retention.erasing import completion_erase, conversation_erase
from conversations.retention.pruning import limits_now, prune, would_prune
from conversations.services import completions_flush
from conversations.usage.folding import day_of, days_fold, hours_fold
from conversations.usage.query import UsageQuery
from conversations.usage.totals import total, usage
from tests.conversations.marked import (
    HOLD_NO_TEXT,
    MARK,
    columns,
    everything_about,
    everything_said_by,
    places_of,
)
from tests.environment import ON_POSTGRES

DAY = timedelta(days=1)
on_sqlite = pytest.mark.skipif(
    ON_POSTGRES, reason="PostgreSQL's files are its own: docs/data.md says what VACUUM does"
)


@pytest.fixture
def keep(settings):
    """keep(text, usage): for so many days."""

    def set_days(text: int | None, usage: int | None = None) -> None:
        settings.LLMAPI = settings.LLMAPI.model_copy(
            update={"keep_text_days": text, "keep_usage_days": usage}
        )

    return set_days


def aged(row: Completion, days: float) -> Completion:
    """The request as if it had been made so long ago; its conversation as it is."""
    Completion.objects.filter(pk=row.pk).update(created_at=timezone.now() - days * DAY)
    return row


def last_turn(row: Completion, days: float) -> None:
    when = timezone.now() - days * DAY
    Conversation.objects.filter(pk=row.conversation_id).update(updated_at=when)


def run(*command: str, **options) -> str:
    out = StringIO()
    call_command(*command, stdout=out, **options)
    return out.getvalue()


# ---- texts ---------------------------------------------------------------------------------------


def test_old_texts_go_and_their_usage_stays(alice, history, keep) -> None:
    keep(30)
    chat = aged(history.say(alice, [("user", MARK)], MARK), 31)
    last_turn(chat, 31)
    plain = history.start(alice, prompt=MARK)
    history.finish(plain, MARK)
    aged(Completion.objects.get(pk=plain), 31)
    young = history.say(alice, [("user", "new")], "answer")
    expected = would_prune(limits_now())
    pruned = prune(limits_now())
    assert pruned == expected
    assert (pruned.conversations, pruned.texts, pruned.requests, pruned.sums) == (1, 1, 0, 0)
    assert places_of(MARK) == []
    assert Completion.objects.exclude(erased_at=None).count() == 2
    assert list(Conversation.objects.all()) == [young.conversation]
    assert CompletionContent.objects.count() == 1


def test_conversation_that_goes_on_keeps_its_old_turns(alice, history, keep) -> None:
    keep(30, 60)
    first = aged(history.say(alice, [("user", "one")], "two"), 90)
    chat = [("user", "one"), ("assistant", "two"), ("user", "three")]
    history.say(alice, chat, "four")
    assert not prune(limits_now())
    assert Message.objects.count() == 4
    first.refresh_from_db()
    assert first.erased_at is None


def test_running_requests_keep_their_texts(alice, history, keep) -> None:
    keep(1, 1)
    first = history.say(alice, [("user", "one")], "two")
    running = history.start(alice, [("user", "one"), ("assistant", "two"), ("user", "three")])
    plain = history.start(alice, prompt="text")
    for row in Completion.objects.all():
        aged(row, 50)
    last_turn(first, 50)
    assert not would_prune(limits_now())
    assert not prune(limits_now())
    history.finish(running, "answer")
    history.finish(plain, "answer")
    last_turn(first, 50)
    pruned = prune(limits_now())
    assert (pruned.conversations, pruned.texts, pruned.requests) == (1, 1, 3)
    assert not Completion.objects.exists()


# ---- usage ---------------------------------------------------------------------------------------


def test_old_usage_goes_with_its_hours_and_the_rest_is_counted_as_before(
    alice, history, keep
) -> None:
    keep(30, 60)
    for days in (10, 40, 70, 100):
        row = aged(history.say(alice, [("user", f"{days} days")], "answer"), days)
        last_turn(row, days)
    hours_fold()
    days_fold()
    # More of the newest day may come.
    assert [model.objects.count() for model in (UsageHour, UserDay, ModelDay)] == [4, 3, 3]
    expected = would_prune(limits_now())
    pruned = prune(limits_now())
    assert pruned == expected
    assert (pruned.conversations, pruned.requests, pruned.sums) == (3, 2, 6)
    ever = UsageQuery(start=timezone.now() - 200 * DAY, end=timezone.now())
    assert total(usage(ever)).requests == 2
    assert total(usage(replace(ever, group_by=("user",)))).requests == 2
    assert total(usage(replace(ever, group_by=("api_key",)))).requests == 2
    assert hours_fold() == days_fold() == 0
    assert not prune(limits_now())


def test_usage_goes_by_whole_days(alice, history, keep) -> None:
    keep(30, 60)
    midnight = day_of(timezone.now()) - 60 * DAY
    for hours in (-1, 1):
        row = history.say(alice, [("user", "hello")], "answer")
        Completion.objects.filter(pk=row.pk).update(
            created_at=midnight + timedelta(hours=hours), erased_at=timezone.now()
        )
    hours_fold()
    days_fold()
    prune(limits_now())
    for group in ("user", "api_key", "model"):
        ever = UsageQuery(start=midnight - DAY, end=timezone.now(), group_by=(group,), width="day")
        assert [(row.start, row.usage.requests) for row in usage(ever)] == [(midnight, 1)]
    assert Completion.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_what_was_counted_as_pruned_is_gone_when_the_server_stops(alice, history, keep) -> None:
    keep(30, 60)
    row = aged(history.say(alice, [("user", "one")], "two"), 100)
    last_turn(row, 100)
    hours_fold()
    for kind in ("conversations", "requests", "sums"):
        pruned = prune(limits_now(), should_stop=lambda: True)
        assert [name for name, count in asdict(pruned).items() if count] == [kind]
    assert not Completion.objects.exists()
    assert not UsageHour.objects.exists()


def test_prune_is_recorded_if_anything_went(alice, history, keep) -> None:
    keep(30)
    last_turn(aged(history.say(alice, [("user", "one")], "two"), 31), 31)
    prune(limits_now())
    prune(limits_now())
    event = AuditEvent.objects.get()
    assert (event.action, event.actor, event.detail["conversations"]) == ("prune", None, 1)


def test_prune_command_says_what_it_would_do_and_what_it_did(alice, history, keep) -> None:
    assert "kept for ever" in run("prune")
    keep(30)
    last_turn(aged(history.say(alice, [("user", "one")], "two"), 31), 31)
    assert "Would be pruned: 1 conversations" in run("prune", "--dry-run")
    assert Message.objects.count() == 2
    assert "Pruned: 1 conversations" in run("prune")
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    ("days", "words"),
    [
        ({"keep_usage_days": 60}, "LLMAPI_KEEP_USAGE_DAYS needs LLMAPI_KEEP_TEXT_DAYS"),
        ({"keep_usage_days": 31, "keep_text_days": 31}, "LLMAPI_KEEP_USAGE_DAYS: must be at least"),
        ({"keep_usage_days": 60, "keep_text_days": 61}, "at most as many"),
        ({"keep_text_days": 0}, "LLMAPI_KEEP_TEXT_DAYS"),
    ],
)
def test_days_that_cannot_be_kept_stop_the_start(days, words) -> None:
    with pytest.raises(ValidationError) as caught:
        ServerSettings(**days)
    assert words in explain(caught.value)
    ServerSettings(keep_text_days=32, keep_usage_days=32)


@pytest.mark.django_db(transaction=True)
def test_a_server_folds_and_prunes_by_itself(alice, history, keep, monkeypatch) -> None:
    keep(30)
    last_turn(aged(history.say(alice, [("user", MARK)], "two"), 31), 31)
    done = threading.Event()
    monkeypatch.setattr(upkeep, "FOLD_EVERY_S", 0.01)
    monkeypatch.setattr(upkeep.logger, "info", lambda *args: done.set())
    keeper = upkeep.Upkeep()
    keeper.start()
    try:
        assert done.wait(20)
    finally:
        keeper.stop()
    assert UsageHour.objects.count() == 1
    assert not Message.objects.exists()
    if not ON_POSTGRES:
        assert not files_with_mark()


# ---- every text ----------------------------------------------------------------------------------


def test_every_column_that_may_hold_a_text_is_known_to_the_tests_of_erasing(alice, history) -> None:
    """Who adds a column that clients' or owners' words may come into has `marked` fill it, and
    erasing take it away; any other one is named in `HOLD_NO_TEXT`."""
    everything_said_by(alice, history)
    everything_about(alice)
    filled, known = set(places_of(MARK)), columns()
    assert not {name for name, words_fit in known.items() if words_fit} - filled - HOLD_NO_TEXT
    assert not HOLD_NO_TEXT - set(known)
    assert not HOLD_NO_TEXT & filled


def test_pruning_leaves_no_text_in_any_column_of_any_table(alice, history, keep) -> None:
    keep(30)
    everything_said_by(alice, history)
    Completion.objects.update(created_at=timezone.now() - 31 * DAY)
    Conversation.objects.update(updated_at=timezone.now() - 31 * DAY)
    prune(limits_now())
    assert places_of(MARK) == []
    assert Completion.objects.exclude(erased_at=None).count() == 5


@pytest.mark.skipif(not ON_POSTGRES, reason="SQLite's statistics are counts")
def test_the_planners_samples_hold_no_text(alice, history) -> None:
    """They are renewed now and then, and until then they keep what is erased."""
    everything_said_by(alice, history)
    everything_about(alice)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        cursor.execute(
            "SELECT tablename, attname FROM pg_stats WHERE pg_stats::text LIKE %s", [f"%{MARK}%"]
        )
        assert cursor.fetchall() == []
        cursor.execute("SELECT count(*) FROM pg_stats WHERE tablename = 'conversations_message'")
        assert cursor.fetchone()[0] > 5


def test_a_label_goes_with_the_last_text_that_had_it(alice, history) -> None:
    for words in ("one", "two"):
        row = history.say(alice, [("user", words)], "answer")
        review = Review.objects.create(conversation=row.conversation, reviewer=alice)
        review.labels.add(*(Label.objects.get_or_create(name=n)[0] for n in ("both", words)))
    Label.objects.create(name="for later")
    conversation_erase(row.conversation_id)
    assert set(Label.objects.values_list("name", flat=True)) == {"both", "one", "for later"}
    completion_erase(Completion.objects.get(erased_at=None).pk)
    assert set(Label.objects.values_list("name", flat=True)) == {"for later"}


@pytest.mark.django_db(transaction=True)
def test_a_pruning_that_fails_is_tried_again_with_the_next_folding(keep, monkeypatch) -> None:
    keep(30)
    tries = threading.Semaphore(0)

    def fail(*args, **options):
        tries.release()
        raise OperationalError("the database is away")

    monkeypatch.setattr(upkeep, "FOLD_EVERY_S", 0.01)
    monkeypatch.setattr(upkeep, "prune", fail)
    keeper = upkeep.Upkeep()
    keeper.start()
    try:
        assert all(tries.acquire(timeout=20) for _ in range(2))
    finally:
        keeper.stop()


# ---- the files -----------------------------------------------------------------------------------


def files_with_mark() -> list[Path]:
    """SQLite's file and those beside it, if they have the mark anywhere."""
    path = Path(connection.settings_dict["NAME"])
    return [f for f in path.parent.glob(f"{path.name}*") if MARK.encode() in f.read_bytes()]


# ---- a user --------------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_the_database_file_holds_nothing_of_an_erased_user(alice, history) -> None:
    everything_said_by(alice, history)
    # A draft that the answer replaced: no row says it any more, the file may.
    draft = history.start(alice, prompt="question")
    completions_flush({draft: ((f"{MARK} draft",), 1)})
    history.finish(draft, "answer")
    assert files_with_mark()
    run("erase_user", "alice", "--yes")
    assert not files_with_mark()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_what_was_moved_in_the_file_before_it_was_pruned_is_gone_after_a_vacuum(
    alice, bob, history, keep
) -> None:
    """Rows that grow move to other pages, and leave in the old ones what nobody overwrites."""
    keep(30)
    running = [history.start((alice, bob)[n % 10 > 0], prompt="question") for n in range(160)]
    completions_flush(dict.fromkeys(running, ((f"{MARK} draft" * 20,), 1)))
    for pk in running:
        history.finish(pk, "answer" * 300)
    rows = Completion.objects.filter(user=alice)
    rows.update(created_at=timezone.now() - 31 * DAY)
    run("prune")
    assert files_with_mark()
    run("prune", "--vacuum")
    assert not files_with_mark()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_texts_erased_one_by_one_are_zeros_in_the_database_file(alice, history) -> None:
    for number in range(20):
        history.say(alice, [("user", f"{MARK} {number}")], f"{MARK} answer {number}")
    path = Path(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert MARK.encode() in path.read_bytes()
        # By our settings: SQLite's own default differs from build to build.
        assert "secure_delete=ON" in connection.settings_dict["OPTIONS"]["init_command"]
        for row in Completion.objects.all():
            completion_erase(row.pk)
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert MARK.encode() not in path.read_bytes()


def test_erase_user_command_says_what_it_did_and_is_recorded(alice, history) -> None:
    everything_said_by(alice, history)
    said = run("erase_user", "alice", "--yes", "--no-vacuum")
    assert "2 conversations and the texts of 5 requests of 'alice'" in said
    event = AuditEvent.objects.get()
    assert (event.action, event.target, event.actor) == ("erase", "user alice", None)
    assert event.detail == {"conversations": 2, "completions": 5}


def test_erase_user_asks_first(alice, history, monkeypatch) -> None:
    history.say(alice, [("user", MARK)], MARK)
    monkeypatch.setattr("builtins.input", lambda: "y")
    with pytest.raises(CommandError, match="Nothing was erased"):
        run("erase_user", "alice", "--no-vacuum")
    assert Message.objects.count() == 2
    monkeypatch.setattr("builtins.input", lambda: "alice")
    run("erase_user", "alice", "--no-vacuum")
    assert places_of(MARK) == []
    with pytest.raises(CommandError, match="no user 'carol'"):
        run("erase_user", "carol", "--yes")


def test_deactivated_user_has_no_key_no_name_and_no_address(alice, history) -> None:
    everything_about(alice)
    history.say(alice, [("user", MARK)], MARK, api_key_id=ApiKey.objects.get().pk)
    said = run("erase_user", "alice", "--yes", "--deactivate", "--no-vacuum")
    assert "1 keys are revoked" in said
    alice.refresh_from_db()
    assert not alice.is_active
    assert not ApiKey.objects.get().is_usable
    assert places_of(MARK) == []
    assert Completion.objects.get().user == alice
