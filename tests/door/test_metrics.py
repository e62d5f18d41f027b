"""/metrics: who may read it, and that its figures are what happened."""

import asyncio
import secrets
from contextlib import contextmanager

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from prometheus_client.parser import text_string_to_metric_families

from accounts.models import Scope, User
from accounts.services import key_create
from llmapi.running import running
from tests.door.client import Client
from tests.door.test_history import CHAT, COMPLETIONS, EMBEDDINGS, LONG, first_texts

TOKEN = secrets.token_hex(16)
SAID = "What nobody else may read"
HELLO = {"messages": [{"role": "user", "content": SAID}], "model": "reciter"}


@pytest.fixture
def watcher(settings) -> Client:
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"metrics_token": TOKEN})
    return Client(TOKEN)


class Figures(dict):
    """Of one look: (sample, labels) -> value."""

    def of(self, name, **labels) -> float:
        """The sum over all samples of that name with these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.items() if found == name and wanted <= has)

    def __sub__(self, before: "Figures") -> "Figures":
        return Figures({key: value - before.get(key, 0) for key, value in self.items()})


async def look(client: Client) -> Figures:
    answer = await client.get("/metrics")
    assert answer.status == 200, answer
    return Figures(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }
    )


async def counted(client: Client, before: Figures, name: str, **labels) -> Figures:
    """What has changed since, once one of these was counted: a request is when it has ended, which
    its client may know a moment before."""
    for _ in range(500):
        change = await look(client) - before
        if change.of(name, **labels):
            return change
        await asyncio.sleep(0.01)
    raise AssertionError(f"no {name} {labels}")


# ---- what is told -------------------------------------------------------------------------------


async def test_a_finished_request_is_counted_with_its_tokens_and_times(client, watcher):
    before = await look(watcher)
    usage = (await client.post(CHAT, HELLO)).json()["usage"]
    door = {"route": CHAT}
    change = await counted(watcher, before, "llmapi_requests_total", outcome="completed", **door)
    assert change.of("llmapi_requests_total", method="POST", status="2xx", **door) == 1
    assert change.of("llmapi_prompt_tokens_total", model="reciter") == usage["prompt_tokens"]
    told = change.of("llmapi_completion_tokens_total", model="reciter")
    assert told == usage["completion_tokens"]
    for name in ("request_duration", "time_to_first_token", "admission"):
        assert change.of(f"llmapi_{name}_seconds_count", **door) == 1, name
        assert change.of(f"llmapi_{name}_seconds_sum", **door) > 0, name
    whole = change.of("llmapi_request_duration_seconds_sum", **door)
    assert change.of("llmapi_admission_seconds_sum", **door) < whole
    assert change.of("llmapi_time_to_first_token_seconds_sum", **door) < whole
    assert change.of("llmapi_end_write_seconds_count") == 1
    pieces = change.of("llmapi_inter_token_seconds_count")
    assert 0 < pieces < usage["completion_tokens"]
    assert change.of("llmapi_inter_token_seconds_sum") < whole


async def test_what_ends_early_is_counted_as_what_it_was(client, watcher, backends):
    before = await look(watcher)
    async with client.stream(CHAT, LONG) as call:
        await first_texts(call, 3)
        assert (await look(watcher)).of("llmapi_requests_in_flight") == 1
    change = await counted(watcher, before, "llmapi_requests_total", outcome="cancelled")
    assert change.of("llmapi_completion_tokens_total", model="random") >= 3
    assert (await look(watcher)).of("llmapi_requests_in_flight") == 0
    await client.post(CHAT, {**HELLO, "temperature": 3})
    change = await counted(watcher, before, "llmapi_requests_total", outcome="refused")
    assert change.of("llmapi_requests_total", status="4xx", route=CHAT) == 1
    assert change.of("llmapi_errors_total", status="400", code="none") == 1


async def test_the_engines_figures_cross_the_pipe(client, watcher):
    before = await look(watcher)
    usage = (await client.post(CHAT, {**HELLO, "model": "random", "max_tokens": 60})).json()[
        "usage"
    ]
    await client.post(EMBEDDINGS, {"input": SAID, "model": "random"})
    change = await counted(watcher, before, "llmapi_requests_total", route=EMBEDDINGS)
    drawn = usage["completion_tokens"] - 1  # the last is not computed any more
    for _ in range(500):  # told ten times a second, and when it sleeps
        if change.of("llmapi_engine_drawn_tokens_total", model="random") == drawn:
            break
        await asyncio.sleep(0.01)
        change = await look(watcher) - before
    assert change.of("llmapi_engine_drawn_tokens_total", model="random") == drawn
    steps = change.of("llmapi_engine_steps_total", model="random")
    assert change.of("llmapi_batch_size_count", model="random") == steps > drawn
    assert change.of("llmapi_batch_size_bucket", model="random", le="1.0") == steps
    now = await look(watcher)
    assert now.of("llmapi_running_sequences", model="random") == 0
    assert now.of("llmapi_kv_cache_tokens", model="random") == 16384
    assert now.of("llmapi_kv_cache_held_tokens", model="random") == 0
    assert now.of("llmapi_kv_cache_reusable_tokens", model="random") > 0
    assert now.of("llmapi_engine_up", model="random") == 1


async def test_an_engine_that_died_is_down_and_then_was_started_again(start, engine, watcher):
    backend = await sync_to_async(start)()
    before = await look(watcher)
    assert before.of("llmapi_engine_up", model="base") == 1
    assert before.of("llmapi_engine_restarts_total") == 0
    backend.link._hang_up()
    for _ in range(3000):
        now = await look(watcher)
        restarts = now.of("llmapi_engine_restarts_total", model="base")
        if restarts and now.of("llmapi_engine_up", model="base"):
            break
        await asyncio.sleep(0.01)
    assert restarts == 1
    assert now.of("llmapi_engine_up", model="base") == 1


async def test_refusals_are_told_by_their_reason(client, user, watcher, settings):
    before = await look(watcher)
    await User.objects.filter(pk=user.pk).aupdate(requests_per_minute=1)
    statuses = [(await client.post(CHAT, {**HELLO, "max_tokens": 1})).status for _ in range(3)]
    assert statuses == [200, 429, 429]
    running.draining = True
    try:
        assert (await client.post(CHAT, HELLO)).status == 503
        change = await counted(watcher, before, "llmapi_refusals_total", reason="shutting_down")
        assert (await look(watcher)).of("llmapi_draining") == 1
    finally:
        running.reset()
    assert change.of("llmapi_refusals_total", status="429", reason="requests_limit") == 2
    assert change.of("llmapi_errors_total", status="429", code="rate_limit_exceeded") == 2


async def test_pages_and_the_admin_are_counted_by_few_names(client, watcher):
    before = await look(watcher)
    for path in ("/sign-in/", "/admin/accounts/user/1/change/", "/nothing/here", "/v1/nothing"):
        await Client().get(path)
    await client.get("/v1/models/reciter")
    await client.get(f"/v1/models/{SAID}")
    await client.request("BREW", "/v1/models")
    change = await look(watcher) - before
    routes = {
        dict(labels)["route"]: value
        for (name, labels), value in change.items()
        if name == "llmapi_requests_total" and value
    }
    # The look before has ended by now, too; the wrong method is one of the list's.
    assert set(routes) - {"/metrics"} == {
        *("/sign-in/", "/admin/", "/v1/models/<path:model>", "/v1/models", "other"),
    }
    assert change.of("llmapi_requests_total", method="other", status="4xx") == 1
    assert change.of("llmapi_requests_total", route="other", status="4xx", outcome="refused") == 2
    assert change.of("llmapi_views_in_flight", line="views") == 0


async def test_a_database_that_fails_is_counted_where_it_failed(client, watcher):
    before = await look(watcher)
    with no_database():
        assert (await client.post(COMPLETIONS, {"prompt": SAID})).status == 503
        assert (await client.get("/v1/models")).status == 503
    change = await look(watcher) - before
    assert change.of("llmapi_database_errors_total", where="admission") == 1
    assert change.of("llmapi_database_errors_total", where="views") == 1
    assert change.of("llmapi_refusals_total", reason="database_unavailable") == 2


async def test_nothing_in_it_names_anybody_or_says_what_was_said(client, user, watcher):
    await client.post(CHAT, {**HELLO, "user": "a-name-of-the-clients"})
    await client.post(CHAT, {**HELLO, "model": "a-model-that-is-not-served"})
    await client.get("/v1/models/a-model-that-is-not-served")
    await Client("sk-wrong").get("/v1/models?key=" + client.key)
    text = (await watcher.get("/metrics")).body.decode()
    for word in (client.key, client.key[11:43], user.username, SAID, TOKEN, "that-is-not-served"):
        assert word not in text
    assert "a-name-of-the-clients" not in text


# ---- who may read it ----------------------------------------------------------------------------


async def test_without_a_token_in_the_settings_none_opens_it(served):
    for client in (Client(), Client(TOKEN), Client("")):
        answer = await client.get("/metrics")
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_token_opens_this_route_and_no_other(served, watcher):
    assert (await watcher.get("/metrics")).status == 200
    assert (await watcher.get("/v1/models")).status == 401
    assert (await watcher.post(CHAT, HELLO)).status == 401
    for wrong in (TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "ÿ" * 16):
        answer = await Client(wrong).get("/metrics")
        assert answer.status == 401
        assert wrong not in answer.body.decode()


async def test_a_key_opens_it_with_the_right_to_see_requests(client, served, watcher):
    def keys():
        staff = User.objects.create_user("staff", is_staff=True)
        without = key_create(user=staff)[1]
        watching = User.objects.create_user("watching", is_staff=True)
        watching.user_permissions.add(Permission.objects.get(codename="view_completion"))
        return (
            without,
            key_create(user=watching)[1],
            key_create(user=watching, scopes=[Scope.ADMIN])[1],
            key_create(user=watching, scopes=[Scope.CHAT])[1],
        )

    without, right, admin, chat = await sync_to_async(keys)()
    for key, status in ((client.key, 403), (without, 403), (right, 200), (admin, 200), (chat, 403)):
        assert (await Client(key).get("/metrics")).status == status


async def test_a_key_is_not_taken_over_plain_http_where_https_is_on(client, watcher, settings):
    settings.SECURE_SSL_REDIRECT = True
    assert (await watcher.get("/metrics")).status == 200, "Prometheus asks beside the proxy"
    answer = await client.get("/metrics")
    assert answer.status == 400
    assert "https" in answer.error["message"]


@contextmanager
def no_database():
    """No connection to it is to be had."""

    def refuse(*args, **kwargs):
        raise OperationalError("no database here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseWrapper, "ensure_connection", refuse)
        patch.setattr(BaseDatabaseWrapper, "_cursor", refuse)
        yield


async def test_it_answers_without_a_database(served, watcher):
    with no_database():
        for _ in range(3):
            assert (await watcher.get("/metrics")).status == 200
        assert (await Client("no-key-at-all").get("/metrics")).status == 401


async def test_both_of_prometheus_formats_are_there(served, watcher):
    text = await watcher.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert text.headers["x-request-id"].startswith("req_")
    assert "content-security-policy" in text.headers
    wanted = {"accept": "application/openmetrics-text; version=1.0.0"}
    openmetrics = await watcher.get("/metrics", headers=wanted)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")
