"""One Chromium and one server for all tests here. The server echoes, a word every few milliseconds,
so that answers say what the tests want them to say, and can be stopped on their way."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.reader import PASSWORD, Reader
from tests.environment import ON_POSTGRES
from tests.serve.server import ServerUnderTest

USERS = ("alice", "bob")
MAKE_USERS = f"""
from accounts.models import User
for name in {USERS!r}:
    User.objects.create_user(name, password={PASSWORD!r})
"""


def why_not() -> str | None:
    """Why the browser's tests cannot run here."""
    try:
        from tests.browser.chromium import why_no_browser
    except ImportError:
        return "selenium is not installed: pip install -r requirements-dev.txt"
    if ON_POSTGRES:
        return "the browser's server has a SQLite file"
    return why_no_browser()


def pytest_terminal_summary(terminalreporter) -> None:  # type: ignore[no-untyped-def]
    reason = why_not()
    if reason and not ON_POSTGRES:
        terminalreporter.section("THE PAGES WERE NOT TRIED IN A BROWSER", red=True, bold=True)
        terminalreporter.line(reason)


@pytest.fixture(scope="session")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    """The server, which may not be ready yet."""
    if reason := why_not():
        pytest.skip(reason)
    echo = ServerUnderTest(
        tmp_path_factory.mktemp("browser") / "var",
        None,
        flags=(),
        LLMAPI_ENGINE="echo",
        LLMAPI_SIGN_UP="open",
        LLMAPI_ECHO_DELAY_MS="15",
        LLMAPI_MODEL_ALIASES="gpt-4=echo",
    )
    try:
        echo.start()
        yield echo
    finally:
        echo.end()
        print(echo.log)


@pytest.fixture(scope="session")
def chromium(starting: ServerUnderTest):  # type: ignore[no-untyped-def]
    """Opened while the server starts."""
    from tests.browser.chromium import browser

    with browser() as driver:
        yield driver


@pytest.fixture(scope="session")
def server(starting: ServerUnderTest, chromium) -> ServerUnderTest:  # type: ignore[no-untyped-def]
    starting.wait_ready()
    starting.manage("shell", "-v0", "-c", MAKE_USERS)
    return starting


@pytest.fixture
def served(server: ServerUnderTest) -> ServerUnderTest:
    return server


@pytest.fixture
def chrome(anybody: Reader):  # type: ignore[no-untyped-def]
    """The browser itself, with nobody signed in."""
    anybody.begin()
    return anybody.driver


@pytest.fixture(scope="session")
def anybody(chromium, server: ServerUnderTest) -> Reader:  # type: ignore[no-untyped-def]
    return Reader(chromium, server.url)


@pytest.fixture
def reader(anybody: Reader) -> Iterator[Reader]:
    """Somebody in front of the browser, not signed in, reading English on a desktop."""
    anybody.begin()
    yield anybody
    assert anybody.complaints() == []


@pytest.fixture
def alice(reader: Reader) -> Reader:
    """The reader, signed in as alice, with the playground open."""
    reader.sign_in("alice")
    reader.open("/playground/")
    return reader


@pytest.fixture
def sql(server: ServerUnderTest):  # type: ignore[no-untyped-def]
    """sql("UPDATE ...", value): what an operator does to the database meanwhile."""
    path: Path = server.var_dir / "db.sqlite3"

    def run(statement: str, *values: object) -> list[tuple[object, ...]]:
        with sqlite3.connect(path, timeout=20) as connection:
            return connection.execute(statement, values).fetchall()

    return run
