"""Who is let in. What each route says to whom stands in the matrix (`test_matrix`)."""

from asgiref.sync import sync_to_async

from accounts.models import ApiKey
from accounts.services import key_revoke
from conversations.models import Completion
from tests.door.client import Client

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


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


async def test_the_openapi_document_tells_of_idempotency_keys(served):
    paths = (await Client().get("/openapi.json")).json()["paths"]
    takes = {
        path
        for path, methods in paths.items()
        for method in methods.values()
        if any(p["name"] == "Idempotency-Key" for p in method.get("parameters", []))
    }
    assert takes == {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
    for path in takes:
        assert {"409", "422"} <= {*paths[path]["post"]["responses"]}


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
