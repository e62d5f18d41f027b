"""Who is let in."""

from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts.models import ApiKey, User
from accounts.services import key_create, key_revoke
from conversations.models import Completion
from tests.door.client import Client

ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/reciter"),
    ("GET", "/v1/usage"),
    ("GET", "/metrics"),
    ("GET", "/v1/admin/adapters"),
    ("POST", "/v1/admin/adapters"),
    ("GET", "/v1/chat/completions"),
    ("GET", "/v1/chat/completions/chatcmpl-x"),
    ("POST", "/v1/chat/completions/chatcmpl-x"),
    ("DELETE", "/v1/chat/completions/chatcmpl-x"),
    ("GET", "/v1/chat/completions/chatcmpl-x/messages"),
    ("GET", "/v1/conversations"),
    ("POST", "/v1/conversations"),
    ("GET", "/v1/conversations/conv_x"),
    ("POST", "/v1/conversations/conv_x"),
    ("DELETE", "/v1/conversations/conv_x"),
    ("GET", "/v1/conversations/conv_x/items"),
    ("POST", "/v1/conversations/conv_x/items"),
    ("GET", "/v1/conversations/conv_x/items/msg_x"),
    ("DELETE", "/v1/conversations/conv_x/items/msg_x"),
]
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


async def call(client, method, route):
    if method == "POST":
        return await client.post(route, {})
    return await client.request(method, route)


async def bad_keys(user):
    """Name -> a client with a key that must not open anything."""

    def made():
        _, expired = key_create(user=user, name="e")
        ApiKey.objects.filter(name="e").update(expires_at=timezone.now() - timedelta(seconds=1))
        revoked_row, revoked = key_create(user=user, name="r")
        key_revoke(revoked_row)
        _, of_inactive = key_create(user=User.objects.create_user("gone", is_active=False))
        return expired, revoked, of_inactive

    expired, revoked, of_inactive = await sync_to_async(made)()
    return {
        "missing": None,
        "malformed": "sk-123",
        "unknown": "sk-" + "0" * 46,
        "expired": expired,
        "revoked": revoked,
        "owner inactive": of_inactive,
    }


@pytest.mark.parametrize(("method", "route"), ROUTES)
async def test_a_bad_key_is_a_401_in_the_envelope_on_every_route(client, user, method, route):
    for name, key in (await bad_keys(user)).items():
        answer = await call(Client(key), method, route)
        assert answer.status == 401, name
        assert answer.headers["www-authenticate"] == "Bearer", name
        assert answer.error["code"] == "invalid_api_key", name
        assert key is None or key not in answer.body.decode(), name


async def test_a_revoked_key_is_refused_by_the_next_request(client, user):
    assert (await client.post("/v1/chat/completions", CHAT)).status == 200
    await sync_to_async(lambda: key_revoke(ApiKey.objects.get()))()
    assert (await client.post("/v1/chat/completions", CHAT)).status == 401


async def test_keyless_requests_are_the_user_anonymous_if_the_operator_says_so(served, settings):
    keyless = Client()
    assert (await keyless.post("/v1/chat/completions", CHAT)).status == 401
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"allow_anonymous": True})
    assert (await keyless.post("/v1/chat/completions", CHAT)).status == 200
    assert (await keyless.get("/v1/models")).status == 200
    row = await Completion.objects.select_related("user").aget()
    assert row.user.username == "anonymous"
    assert row.api_key_id is None
    # a bad key stays a bad key
    assert (await Client("sk-123").post("/v1/chat/completions", CHAT)).status == 401


async def test_models_are_listed_and_read(client):
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["reciter", "random"]
    one = (await client.get("/v1/models/random")).json()
    assert one["object"] == "model"
    assert one["llmapi"]["context_length"] == 1024
    answer = await client.get("/v1/models/nothing")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_answers_of_the_api_stay_in_no_cache(client):
    answers = [await client.post("/v1/chat/completions", body) for body in (CHAT, {})]
    answers += [await client.get(path) for path in ("/v1/chat/completions", "/v1/models", "/v1/x")]
    async with client.stream("/v1/chat/completions", CHAT) as call:
        answers.append(await call.start())
    assert [answer.status for answer in answers] == [200, 400, 200, 200, 404, 200]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"


async def test_probes_need_no_key_and_tell_the_truth(served, backends):
    nobody = Client()
    assert (await nobody.get("/health")).json() == {"status": "ok"}
    assert (await nobody.get("/ready")).json() == {"status": "ready"}
    served._backends = []
    answer = await nobody.get("/ready")
    assert answer.status == 503
    assert answer.json()["reason"] == "No model is served."
    assert (await nobody.get("/health")).status == 200


async def test_the_openapi_document_covers_every_route(served):
    answer = await Client().get("/openapi.json")
    paths = answer.json()["paths"]
    assert set(paths) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/usage",
        "/v1/admin/adapters",
        "/v1/admin/adapters/{name}",
        "/v1/chat/completions/{completion_id}",
        "/v1/chat/completions/{completion_id}/messages",
        "/v1/conversations",
        "/v1/conversations/{conversation_id}",
        "/v1/conversations/{conversation_id}/items",
        "/v1/conversations/{conversation_id}/items/{item_id}",
        "/health",
        "/ready",
        "/metrics",
    }
    content = paths["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert paths["/v1/chat/completions"]["post"]["security"] == [{"apiKey": []}]


async def test_the_docs_page_loads_nothing_from_elsewhere(served):
    nobody = Client()
    page = (await nobody.get("/docs/")).body.decode()
    assert "swagger-ui" in page
    assert "https://" not in page
    assert (await nobody.get("/")).headers["location"] == "/sign-in/?next=/"
