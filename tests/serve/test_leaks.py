"""No secret is to be found in what a server leaves: the quick form of `python -m tests.reliability
secrets`, which has a real engine, every key in every wrong place, and both databases."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.redis_server import RedisServer, why_no_redis
from tests.serve.careless import Careless
from tests.serve.leaks import Leak, Search
from tests.serve.server import ServerUnderTest


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    search = Search()
    key = search.plant_key("key", "sk-AbCdEfGh0123456789abcdefghijklmnopqrstuvX1Y2Z3")
    said = search.plant("said", 'a thing, "quoted" & confided', is_kept=True)
    search.look("nothing", "sk-AbCdEfGh… and the like")
    search.look("page", f"<p>{said}</p>")
    assert search.leaks == []
    search.look("log", f"...{said}...", logs=True)
    search.look("body", f"the model {key} is not served")
    search.look("shown", key, besides=("key",))
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b TEXT)")
        connection.execute("INSERT INTO t VALUES (1, ?)", [f"x{key[11:43]}x"])
        connection.commit()
    search.look_in_sqlite(tmp_path / "db.sqlite3", "")
    (tmp_path / "journal").write_text(f'{{"text": "{key}"}}')
    search.look_in_files(tmp_path, but=("db.sqlite3",))
    part = "key, its secret part"
    assert {*search.leaks} == {
        Leak("said", "log"),
        *(Leak(name, "body") for name in ("key", part)),
        *(Leak(part, place) for place in ("t.b", "the bytes of db.sqlite3")),
        *(Leak(name, "journal") for name in ("key", part)),
    }
    search.look("address", "/said?q=a%20thing%2C%20%22quoted%22%20%26%20confided", logs=True)
    search.look("object", '{"a": "a thing, \\"quoted\\" & confided"}', logs=True)
    assert [leak.place for leak in search.leaks[-2:]] == ["address", "object"]


@pytest.fixture
def redis(tmp_path: Path):  # type: ignore[no-untyped-def]
    if reason := why_no_redis():
        pytest.skip(reason)
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", password=secrets.token_hex(12))
    server.start()
    yield server
    server.stop()


def test_no_secret_is_left_anywhere(tmp_path: Path, redis: RedisServer) -> None:
    search = Search()
    secret_key = search.plant("SECRET_KEY", secrets.token_urlsafe(40))
    search.plant("password of Redis", redis.password)
    server = ServerUnderTest(
        tmp_path / "var",
        None,
        flags=(),
        LLMAPI_ENGINE="echo",
        LLMAPI_ECHO_DELAY_MS="20",
        SECRET_KEY=secret_key,
        REDIS_URL=redis.url,
        LLMAPI_METRICS_TOKEN=search.plant("LLMAPI_METRICS_TOKEN", secrets.token_hex(16)),
        LLMAPI_LOG_LEVEL="DEBUG",
        LLMAPI_SIGN_UP="invitation",
    )
    careless = Careless(server, search, is_quick=True)
    careless.first_start()
    try:
        careless.people()
        careless.requests()
        careless.misplaced_keys()
        careless.refusals_of_the_database()
        careless.death_of_all()
        careless.start_again(LLMAPI_LOG_FORMAT="json")
        careless.requests()
        careless.misplaced_keys()
        careless.look_everywhere(secret_key)
    finally:
        careless.close()
    assert search.leaks == []
    assert len(search.secrets) > 60
    assert search.places > 300
