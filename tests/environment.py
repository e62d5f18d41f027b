"""What the tests run in: their own folder, one of two databases, nothing of the developer's own.

A plugin that pytest loads by name (`-p tests.environment`) before pytest-django loads the settings.
TEST_DATABASE chooses: `sqlite` (a file; the default) or `postgres`. Where no PostgreSQL answers on
loopback, its tests are skipped with the reason; with CI=true that is a failure.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

FOLDER = Path(tempfile.mkdtemp(prefix="llmapi-tests-"))
POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
ON_POSTGRES = os.environ.get("TEST_DATABASE", "sqlite") == "postgres"

atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

OTHERS = ("SECRET_KEY", "DEBUG", "ALLOWED_HOSTS", "REDIS_URL")

for name in [*os.environ]:
    if name.startswith("LLMAPI_") or name in OTHERS:
        del os.environ[name]
(FOLDER / "empty.env").touch()
os.environ["LLMAPI_ENV_FILE"] = str(FOLDER / "empty.env")
os.environ["LLMAPI_VAR_DIR"] = str(FOLDER)
if ON_POSTGRES:
    os.environ["DATABASE_URL"] = POSTGRES_URL
else:
    os.environ.pop("DATABASE_URL", None)


def why_no_database() -> str | None:
    if not ON_POSTGRES:
        return None
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
    except psycopg.OperationalError as error:
        return f"no PostgreSQL answers at {POSTGRES_URL}: {str(error).splitlines()[0]}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_database()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(reason)
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))
