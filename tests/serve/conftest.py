"""Servers for the tests, on the database that TEST_DATABASE names (see tests/environment.py)."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.environment import ON_POSTGRES, POSTGRES_URL
from tests.serve.history import Databases, History
from tests.serve.server import ServerUnderTest
from tests.serve.servers import Servers, unique_name, write_nonsense

NewServer = Callable[..., ServerUnderTest]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that writes nonsense, and never ends by itself when it is greedy."""
    return write_nonsense(tmp_path_factory.mktemp("models") / "nonsense")


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    made = Databases(POSTGRES_URL if ON_POSTGRES else None, unique_name("serve"))
    try:
        yield made
    finally:
        made.drop_all()


def server_maker(
    databases: Databases, model: Path, folder: Callable[[], Path]
) -> Iterator[Servers]:
    """A function that makes servers; all are ended, and their logs shown if the test failed."""
    servers = Servers(databases, model, folder)
    try:
        yield servers
    finally:
        servers.end()
        for server in servers.made:
            print(server.log)


@pytest.fixture(scope="module")
def module_servers(
    databases: Databases, model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewServer]:
    yield from server_maker(databases, model_directory, lambda: tmp_path_factory.mktemp("server"))


@pytest.fixture
def new_server(
    databases: Databases, model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewServer]:
    yield from server_maker(databases, model_directory, lambda: tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="session")
def server(
    databases: Databases, model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerUnderTest]:
    """One server for all tests that neither stop nor break it."""
    makers = server_maker(databases, model_directory, lambda: tmp_path_factory.mktemp("shared"))
    shared = next(makers)()
    try:
        shared.start()
        shared.wait_ready()
        yield shared
    finally:
        makers.close()


@pytest.fixture(scope="session")
def key(server: ServerUnderTest) -> str:
    return server.new_key()


@pytest.fixture(scope="session")
def history(server: ServerUnderTest) -> History:
    return History(server.var_dir, server.database_url)


@pytest.fixture(scope="session")
def echo(
    databases: Databases, model_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerUnderTest]:
    """One server without a model, for what asks the web process alone."""
    makers = server_maker(databases, model_directory, lambda: tmp_path_factory.mktemp("echo"))
    made = next(makers)(model=None, LLMAPI_ENGINE="echo")
    try:
        made.start()
        made.wait_ready()
        yield made
    finally:
        makers.close()


@pytest.fixture(scope="session")
def echo_key(echo: ServerUnderTest) -> str:
    return echo.new_key()


@pytest.fixture(scope="session")
def anonymous_server(
    server: ServerUnderTest,
    databases: Databases,
    model_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerUnderTest]:
    """A second web process on the database of `server`, open to requests without a key."""
    makers = server_maker(databases, model_directory, lambda: tmp_path_factory.mktemp("second"))
    second = next(makers)(
        server.var_dir, database_url=server.database_url, LLMAPI_ALLOW_ANONYMOUS="true"
    )
    try:
        second.start()
        second.wait_ready()
        yield second
    finally:
        makers.close()
