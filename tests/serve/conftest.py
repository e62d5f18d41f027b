"""Servers for the tests, on the database that TEST_DATABASE names (see tests/environment.py)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.engine import tiny
from tests.environment import ON_POSTGRES, POSTGRES_URL
from tests.serve.history import Databases, History
from tests.serve.server import ServerUnderTest

CONTEXT_LENGTH = 16384
"""So that a stream of the tiny model can outlast what a test does meanwhile."""

NewServer = Callable[..., ServerUnderTest]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that writes nonsense, and never ends by itself when it is greedy."""
    directory = tmp_path_factory.mktemp("models") / "nonsense"
    tiny.write_random(directory, max_position_embeddings=CONTEXT_LENGTH)
    weights = load_file(directory / "model.safetensors")
    # Logits of 0 for what ends a text: some other of 400 tokens always has more.
    weights["lm_head.weight"][: len(tiny.SPECIAL)] = 0
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    url = POSTGRES_URL if ON_POSTGRES else None
    made = Databases(url, f"test_llmapi_serve_{os.getpid()}_{os.urandom(3).hex()}")
    try:
        yield made
    finally:
        made.drop_all()


def server_maker(
    databases: Databases, model: Path, folder: Callable[[], Path]
) -> Iterator[NewServer]:
    """A function that makes servers; all are ended, and their logs shown if the test failed."""
    made: list[ServerUnderTest] = []

    def make(var_dir: Path | None = None, **options: object) -> ServerUnderTest:
        options.setdefault("model", model)
        if "database_url" not in options:
            options["database_url"] = databases.new()
        server = ServerUnderTest(var_dir or folder() / "var", **options)
        made.append(server)
        return server

    try:
        yield make
    finally:
        for server in made:
            server.end()
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
