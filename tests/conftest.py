"""Fixtures for all tests that know Django; tests/environment.py sets the ground."""

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from django.conf import settings
from django.db import connection

from accounts.models import User
from tests.environment import FOLDER, ON_POSTGRES
from tests.redis_server import RedisServer, why_no_redis

if ON_POSTGRES:
    # A name of its own, so that several runs may share one server.
    settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = f"test_llmapi_{os.getpid()}"
else:
    # A file, as in production: Django's in-memory database fails with several threads.
    settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(FOLDER / "test.sqlite3")


@pytest.fixture(scope="session")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if reason := why_no_redis():
        pytest.skip(reason)
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(running_redis: RedisServer) -> RedisServer:
    """Empty; a test may stop it, or stop it and start it again."""
    if running_redis.process is None:
        running_redis.start()
    with redis.Redis.from_url(running_redis.url) as client:
        client.flushall()
    return running_redis


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def staff_client(db: None, client):  # type: ignore[no-untyped-def]
    staff = User(username="staff", is_staff=True, is_superuser=True)
    staff.set_unusable_password()
    staff.save()
    client.force_login(staff)
    return client


@pytest.fixture
def at_once() -> Callable[..., list]:
    """at_once(count, action): calls action(index) in `count` threads together; their results."""

    def run_at_once(count: int, action: Callable[[int], object]) -> list:
        results: list = []
        barrier = threading.Barrier(count)

        def run(index: int) -> None:
            try:
                barrier.wait()
                results.append(action(index))
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == count
        return results

    return run_at_once
