"""Limits and revocation with two server processes on one database and one Redis."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.redis_server import RedisServer
from tests.serve.asking import CHAT, HELLO, bearer, post
from tests.serve.conftest import NewServer
from tests.serve.server import ServerUnderTest

BODY = {"messages": HELLO, "max_tokens": 5}


@pytest.fixture(scope="module")
def servers(
    module_servers: NewServer, running_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> list[ServerUnderTest]:
    variables = {"LLMAPI_ENGINE": "echo", "REDIS_URL": running_redis.url}
    options: dict[str, object] = {"model": None, **variables}
    first = module_servers(tmp_path_factory.mktemp("limits") / "var", **options)
    second = module_servers(first.var_dir, database_url=first.database_url, **options)
    for server in (first, second):
        server.start()
    for server in (first, second):
        server.wait_ready()
    return [first, second]


def test_of_50_requests_at_once_to_two_processes_exactly_10_pass(
    servers: list[ServerUnderTest],
) -> None:
    key = servers[0].manage("createkey", "alice", "--requests-per-minute", "10").strip()
    urls = [server.url for server in servers]
    with httpx.Client(timeout=60, limits=httpx.Limits(), headers=bearer(key)) as client:

        def ask(number: int) -> httpx.Response:
            return client.post(urls[number % 2] + CHAT, json=BODY)

        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(ask, range(50)))
    assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 40}
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "10"
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"


def test_budget_holds_for_both_processes_and_after_a_restart_of_one(
    servers: list[ServerUnderTest],
) -> None:
    one, two = servers
    key = one.manage("createkey", "bob", "--token-budget", "20").strip()
    assert post(one.url, key, CHAT, BODY).json()["usage"]["total_tokens"] == 2
    assert post(two.url, key, CHAT, BODY).status_code == 200
    two.stop()
    two.start()
    two.wait_ready()
    refused = post(two.url, key, CHAT, {**BODY, "max_tokens": 16})
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert "used 4, requested 17" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert post(one.url, key, CHAT, {**BODY, "max_tokens": 15}).status_code == 200


def test_a_revoked_key_is_refused_by_every_process_from_the_next_request_on(
    servers: list[ServerUnderTest],
) -> None:
    key = servers[0].new_key("carol")
    for server in servers:
        assert post(server.url, key, CHAT, BODY).status_code == 200
    servers[0].manage("revokekey", key)
    for server in servers:
        assert post(server.url, key, CHAT, BODY).status_code == 401
        models = httpx.get(f"{server.url}/v1/models", headers=bearer(key), timeout=10)
        assert models.status_code == 401


def test_server_starts_and_answers_without_the_redis_that_it_is_told_of(
    new_server: NewServer, tmp_path: Path
) -> None:
    url = "redis://127.0.0.1:1/0"
    server = new_server(tmp_path / "var", model=None, LLMAPI_ENGINE="echo", REDIS_URL=url)
    server.start()
    server.wait_ready()
    key = server.manage("createkey", "alice", "--requests-per-minute", "2").strip()
    codes = [post(server.url, key, CHAT, BODY).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]
    assert "Redis does not answer (REDIS_URL)" in server.err
    assert server.stop() == 0
