"""A database that says nothing is given up; one that works, and a thread that does, are left
alone."""

import threading
import time
from collections.abc import Iterator

import pytest
from django.db import OperationalError, connection

from conversations.storage.overdue import Overdue
from tests.environment import ON_POSTGRES

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not ON_POSTGRES, reason="SQLite keeps its own time"),
]


SLEEPERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_sleep%'
"""


@pytest.fixture
def overdue() -> Iterator[Overdue]:
    yield Overdue(looks_every_s=0.05)
    # A server notices that its client is gone when it has something to say.
    ask(SLEEPERS)


def ask(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_who_waits_too_long_meets_the_error_of_a_database_that_went_away(overdue):
    ask("SELECT 1")
    with pytest.raises(OperationalError), overdue.watched(has_s=0.2):
        ask("SELECT pg_sleep(600)")
    connection.close()
    ask("SELECT 1")


def test_who_is_at_work_without_asking_is_left_alone(overdue):
    ask("SELECT 1")
    with overdue.watched(has_s=0.1):
        time.sleep(0.5)
        ask("SELECT 1")


def test_who_is_done_in_time_is_not_cut_afterwards(overdue):
    with overdue.watched(has_s=0.3):
        ask("SELECT 1")
    ask("SELECT pg_sleep(0.8)")


def test_each_thread_has_its_own_time(overdue):
    waiting = threading.Event()
    found = []

    def wait_long():
        try:
            with overdue.watched(has_s=600):
                waiting.set()
                ask("SELECT pg_sleep(0.8)")
            found.append("answered")
        finally:
            connection.close()

    thread = threading.Thread(target=wait_long)
    thread.start()
    assert waiting.wait(30)
    with pytest.raises(OperationalError), overdue.watched(has_s=0.1):
        ask("SELECT pg_sleep(600)")
    connection.close()
    thread.join(30)
    assert found == ["answered"]
