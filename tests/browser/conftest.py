"""A server and a browser for the tests of this folder."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.browser.chromium import browser, why_no_browser
from tests.serve.server import ServerUnderTest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := why_no_browser():
        for item in items:
            if "browser" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    """A server of its own, on SQLite, that answers with the prompt."""
    folder = tmp_path_factory.mktemp("served") / "var"
    server = ServerUnderTest(folder, None, flags=(), LLMAPI_ENGINE="echo", LLMAPI_SIGN_UP="open")
    try:
        server.start()
        server.wait_ready()
        yield server
    finally:
        server.end()


@pytest.fixture
def chrome() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver
