"""The database goes away under a real server, in mid-stream: no client notices, nothing is lost."""

import httpx
import pytest

from tests.environment import ON_POSTGRES
from tests.serve.asking import CHAT, TIMEOUT, Stream, bearer, chat, post
from tests.serve.history import History
from tests.serve.outage import Outage
from tests.serve.server import until

KEYED = {"Idempotency-Key": "of-a-lost-database"}
SLOW_ECHO = {"model": None, "flags": (), "LLMAPI_ENGINE": "echo", "LLMAPI_ECHO_DELAY_MS": "10"}
"""No model: what is tried is between the web process and the database."""

WORDS = 150
STORY = chat(WORDS, " ".join(f"w{place}" for place in range(WORDS)), stream=True)


NONE_INTERRUPTED = "is dead; 0 of its requests were interrupted"


class Site:
    """A server, the database between which and it an outage can come, and a client."""

    def __init__(self, new_server, databases, var_dir):
        url = databases.new()
        self.outage = Outage(url, var_dir)
        self.new_server = new_server
        self.server = new_server(var_dir, database_url=self.outage.url, **SLOW_ECHO)
        self.server.start()
        self.server.wait_ready()
        self.key = self.server.new_key()
        self.history = History(var_dir, url)
        self.journals = var_dir / "journal"

    def lines(self):
        if not self.journals.exists():
            return []
        return [line for path in self.journals.iterdir() for line in path.read_text().splitlines()]

    def streamed_through(self, headers=(), *, silent=False):
        """A stream under which the database goes away, read to its end."""
        with httpx.stream(
            "POST",
            self.server.url + CHAT,
            json=STORY,
            headers={**bearer(self.key), **dict(headers)},
            timeout=TIMEOUT,
        ) as response:
            stream = Stream(response)
            stream.read(20)
            self.outage.begin(silent=silent)
            stream.read()
        assert stream.is_done
        assert stream.error is None
        (line,) = self.lines()
        assert stream.id in line
        return stream

    def until_completed(self, stream, timeout_s=30):
        until(
            lambda: self.history.completion(stream.id).status != "running",
            "the row has its end",
            timeout_s,
        )
        row = self.history.completion(stream.id)
        assert (row.status, row.texts, row.error) == ("completed", (stream.text,), "")
        assert row.completion_tokens == WORDS
        until(lambda: not self.lines(), "the journal is gone")


@pytest.fixture(scope="module")
def site(module_servers, databases, tmp_path_factory):
    site = Site(module_servers, databases, tmp_path_factory.mktemp("lost") / "var")
    yield site
    site.outage.close()


def test_the_stream_goes_on_and_its_row_gets_its_end_when_the_database_is_back(site):
    server = site.server
    stream = site.streamed_through(KEYED)
    assert server.ready_status() == 503
    figures = server.metrics()  # they need no database
    assert "llmapi_journal_entries 1.0" in figures
    assert 'llmapi_requests_total{method="POST",outcome="completed"' in figures
    assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
    refused = post(server.url, site.key, CHAT, chat(2))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    site.outage.end()
    site.until_completed(stream)
    until(lambda: server.ready_status() == 200, "it is ready again")
    assert "llmapi_journal_entries 0.0" in server.metrics()
    assert post(server.url, site.key, CHAT, chat(2)).status_code == 200
    assert len(site.history.read().completions) == 2, "what was refused left no row"
    with httpx.stream(
        "POST",
        server.url + CHAT,
        json=STORY,
        headers={**bearer(site.key), **KEYED},
        timeout=TIMEOUT,
    ) as response:
        assert response.headers["idempotent-replayed"] == "true"
        again = Stream(response)
        again.read()
    assert (again.id, again.text) == (stream.id, stream.text)


def test_after_a_kill_the_next_start_replays_before_it_sweeps(site):
    stream = site.streamed_through()
    site.server.kill()
    site.outage.end()
    assert site.history.completion(stream.id).status == "running"
    site.server.start()
    site.server.wait_ready()
    site.until_completed(stream, timeout_s=0)
    assert "1 ends were replayed" in site.server.err
    assert NONE_INTERRUPTED in site.server.err


def test_after_a_kill_another_process_of_this_machine_replays_before_it_sweeps(site):
    """One that has the database all the while, or, with SQLite, loses it too."""
    other = site.new_server(
        site.server.var_dir, database_url=site.history.database_url, **SLOW_ECHO
    )
    other.start()
    other.wait_ready()
    stream = site.streamed_through()
    site.server.kill()
    site.outage.end()
    site.until_completed(stream)
    assert "1 ends were replayed" in other.err
    until(lambda: NONE_INTERRUPTED in other.err, "the other one is buried")
    assert other.stop() == 0
    site.server.start()
    site.server.wait_ready()


@pytest.mark.skipif(not ON_POSTGRES, reason="SQLite's lock is waited for, 20 s each time")
def test_an_orderly_end_while_the_database_is_away_leaves_the_journal_for_the_next_start(site):
    stream = site.streamed_through()
    assert site.server.stop() == 0
    site.outage.end()
    assert site.history.completion(stream.id).status == "running"
    site.server.start()
    site.server.wait_ready()
    site.until_completed(stream, timeout_s=0)


@pytest.mark.skipif(not ON_POSTGRES, reason="a file is not silent")
def test_a_silent_database_keeps_no_stream_from_its_end(site):
    stream = site.streamed_through(silent=True)
    site.outage.end()
    site.until_completed(stream)


@pytest.mark.skipif(not ON_POSTGRES, reason="a file is not silent")
def test_a_silent_database_keeps_neither_a_request_nor_the_servers_end_waiting_for_ever(site):
    site.outage.proxy.passing.clear()
    try:
        refused = post(site.server.url, site.key, CHAT, chat(2))
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            503,
            "database_unavailable",
        )
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert site.server.ready_status() == 503
        assert site.server.stop() == 0
    finally:
        site.outage.proxy.passing.set()
    site.server.start()
    site.server.wait_ready()
