"""Nothing secret leaks: real servers on both databases, in both forms of the log and at its most
talkative, with keys made in every way and sent to every wrong place, failed and good sign-ins,
links, errors of all kinds, engines and servers that are killed, and starts that fail. Then every
secret is searched in all that they wrote. About four minutes.
"""

import os
import secrets
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.redis_server import RedisServer, why_no_redis
from tests.reliability.finding import Finding
from tests.serve.careless import Careless, write_model
from tests.serve.history import Databases
from tests.serve.leaks import Search
from tests.serve.server import ServerUnderTest

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
FORMATS = ("text", "json")


def measure(folder: Path) -> Finding:
    model = write_model(folder / "model")
    search = Search()
    databases = Databases(POSTGRES_URL, f"llmapi_secrets_{os.getpid()}")
    tried = ["SQLite"]
    try:
        campaign(folder / "sqlite", model, search, None)
        if has_postgres():
            tried.append("PostgreSQL")
            campaign(folder / "postgres", model, search, databases.new())
    finally:
        databases.drop_all()
    for leak in sorted({(leak.secret, leak.place) for leak in search.leaks}):
        print("found: {} in {}".format(*leak), file=sys.stderr)
    return Finding(
        "Keys, passwords, link tokens, sessions and settings are in no log, row, page, figure or "
        "error that should not show them; nor are prompts and answers in logs",
        "0 found",
        f"{len(search.leaks)} found of {len(search.secrets)} secrets in {search.places} places "
        f"({search.searched_bytes / 1e6:.0f} MB; {' and '.join(tried)}; text and JSON at DEBUG)",
        holds=not search.leaks and search.places > 1000,
    )


def campaign(folder: Path, model: Path, search: Search, database_url: str | None) -> None:
    folder.mkdir()
    print(f"  {folder.name}", file=sys.stderr, flush=True)
    redis = started_redis(folder, search)
    secret_key = search.plant("SECRET_KEY", secrets.token_urlsafe(40))
    server = ServerUnderTest(
        folder / "var",
        model,
        database_url=with_password(database_url, search),
        SECRET_KEY=secret_key,
        LLMAPI_METRICS_TOKEN=search.plant("LLMAPI_METRICS_TOKEN", secrets.token_hex(16)),
        LLMAPI_LOG_LEVEL="DEBUG",
        LLMAPI_SIGN_UP="invitation",
        **({"REDIS_URL": redis.url} if redis else {}),
    )
    careless = Careless(server, search)
    careless.first_start()
    try:
        careless.people()
        for number, form in enumerate(FORMATS):
            if number:
                careless.start_again(LLMAPI_LOG_FORMAT=form)
            careless.requests()
            careless.misplaced_keys()
            careless.refusals_of_the_database()
            careless.death_of_the_engine()
            if redis:
                redis.stop()
            careless.requests()
            careless.death_of_all()
            if redis:
                redis.start()
        careless.start_again(LLMAPI_SHUTDOWN_TIMEOUT_S="0.5")
        careless.end()
        careless.bad_starts()
        careless.start_again()
        careless.look_everywhere(secret_key)
    finally:
        careless.close()
        if redis:
            redis.stop()


def started_redis(folder: Path, search: Search) -> RedisServer | None:
    """One that asks for a password; None: there is no program for it here."""
    if why_no_redis():
        return None
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis", search.plant("password of Redis", secrets.token_hex(12)))
    redis.start()
    return redis


def with_password(url: str | None, search: Search) -> str | None:
    """The server of the tests trusts whoever comes, and takes any password."""
    if url is None:
        return None
    parts = urlsplit(url)
    password = search.plant("password of the database", secrets.token_hex(12))
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or 'postgres'}:{password}@{place}").geturl()


def has_postgres() -> bool:
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
    except psycopg.OperationalError:
        return False
    return True
