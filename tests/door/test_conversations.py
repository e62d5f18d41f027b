"""The Conversations API at the door: what it takes, and what it refuses by name."""

from conversations.models import Conversation, Message
from llmapi.errors import ROUTES
from tests.door.test_history import CHAT
from tests.engine.tiny import RECITAL

CONVERSATIONS = "/v1/conversations"
USER = {"role": "user", "content": "Hello"}


async def make(client, *items, **fields):
    answer = await client.post(CONVERSATIONS, {"items": list(items), **fields})
    assert answer.status == 200, answer.body
    return f"{CONVERSATIONS}/{answer.json()['id']}"


async def test_more_than_twenty_items_none_and_unknown_fields_are_refused(asker):
    conversation = await make(asker, *[USER] * 20)
    for path in (CONVERSATIONS, f"{conversation}/items"):
        answer = await asker.post(path, {"items": [USER] * 21})
        assert (answer.status, answer.error["param"]) == (400, "items")
        answer = await asker.post(path, {"items": [USER], "colour": "red"})
        assert answer.error["code"] == "unknown_parameter"
    for body in ({}, {"items": []}, {"items": None}):
        answer = await asker.post(f"{conversation}/items", body)
        assert (answer.status, answer.error["param"]) == (400, "items")
    for body in ({}, {"items": None, "metadata": None}, {"items": []}):
        assert (await asker.post(CONVERSATIONS, body)).status == 200
    assert await Message.objects.acount() == 20


async def test_what_was_read_may_be_sent_back(client):
    """Items with ids, statuses, annotations: as the API itself shows them."""
    said = await client.chat("Hello", temperature=0)
    path = f"{CONVERSATIONS}/{said['conversation']['id']}/items?order=asc"
    items = (await client.get(path)).json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["Hello", RECITAL]
    copy = await make(client, *items)
    copied = (await client.get(f"{copy}/items?order=asc")).json()["data"]
    assert [item["content"] for item in copied] == [item["content"] for item in items]
    assert not {item["id"] for item in copied} & {item["id"] for item in items}


async def test_include_may_ask_for_what_no_item_has(asker):
    conversation = await make(asker, USER)
    for value, status in (
        ("reasoning.encrypted_content", 200),
        ("message.output_text.logprobs", 400),
        ("nothing", 400),
    ):
        for name in ("include", "include[]"):
            assert (await asker.get(f"{conversation}/items?{name}={value}")).status == status


async def test_several_parts_stay_several(client):
    parts = [{"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo"}]
    conversation = await make(client, {"role": "user", "content": parts})
    (item,) = (await client.get(f"{conversation}/items")).json()["data"]
    assert item["content"] == parts
    body = {"messages": [USER], "conversation": conversation.rpartition("/")[2], "max_tokens": 2}
    assert (await client.post(CHAT, body)).status == 200


async def test_items_are_paged_and_unknown_ones_named(asker):
    items = [{"role": "user", "content": f"m{number}"} for number in range(7)]
    conversation = await make(asker, *items)
    found, after = [], ""
    while True:
        page = (await asker.get(f"{conversation}/items?limit=3{after}")).json()
        found += [item["content"][0]["text"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert found == [f"m{number}" for number in range(6, -1, -1)]
    answer = await asker.get(f"{conversation}/items?after=msg_nothing")
    assert (answer.status, answer.error["param"]) == (404, "after")
    for method in ("GET", "DELETE"):
        answer = await asker.request(method, f"{conversation}/items/msg_nothing")
        assert (answer.status, answer.error["param"]) == (404, "item_id")
    other = await make(asker, USER)
    (item,) = (await asker.get(f"{other}/items")).json()["data"]
    assert (await asker.get(f"{conversation}/items/{item['id']}")).status == 404


async def test_conversations_are_listed_newest_first(client, other_client):
    made = [await make(client, USER) for _ in range(3)]
    await make(other_client, USER)
    said = await client.chat(max_tokens=2)
    await client.post(f"{made[0]}/items", {"items": [USER]})
    wanted = [made[0], f"{CONVERSATIONS}/{said['conversation']['id']}", made[2], made[1]]
    page = (await client.get(f"{CONVERSATIONS}?limit=3")).json()
    found = [f"{CONVERSATIONS}/{one['id']}" for one in page["data"]]
    page = (await client.get(f"{CONVERSATIONS}?after={page['last_id']}")).json()
    assert found + [f"{CONVERSATIONS}/{one['id']}" for one in page["data"]] == wanted
    assert page["data"][0]["llmapi"]["title"] == "Hello"
    assert CONVERSATIONS in ROUTES


async def test_every_answer_says_which_conversation_it_belongs_to(client):
    body = {"messages": [USER], "max_tokens": 2}
    answer = await client.post(CHAT, body)
    conversation = await Conversation.objects.aget()
    assert answer.json()["conversation"] == {"id": conversation.public_id}
    assert answer.headers["x-conversation-id"] == conversation.public_id
    more = {**body, "conversation": conversation.public_id}
    async with client.stream(CHAT, more) as call:
        start = await call.start()
        assert start.headers["x-conversation-id"] == conversation.public_id
        *_, last, done = [event async for event in call.events()]
    assert (last["conversation"], done) == ({"id": conversation.public_id}, "[DONE]")
    assert await Conversation.objects.acount() == 1
    assert await Message.objects.acount() == 4


async def test_a_history_that_is_too_long_is_refused_as_usual(client):
    conversation = await make(client, {"role": "user", "content": "word " * 900})
    body = {"messages": [USER], "conversation": conversation.rpartition("/")[2]}
    assert (await client.post(CHAT, {"messages": [USER], "max_tokens": 1})).status == 200
    answer = await client.post(CHAT, body)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert len((await client.get(f"{conversation}/items")).json()["data"]) == 1


async def test_the_seeds_dialect_goes_on_by_id_too(client):
    first = await client.chat("Hello", temperature=0)
    body = {"messages": [{"role": "user", "message": "And?"}], "max_tokens": 3}
    answer = (await client.post(CHAT, {**body, "conversation": first["conversation"]})).json()
    assert [choice["message"]["role"] for choice in answer["choices"]] == ["user", "assistant"]
    assert answer["conversation"] == first["conversation"]


async def test_an_operator_may_forbid_deleting(client, settings):
    conversation = await make(client, USER)
    item = (await client.get(f"{conversation}/items")).json()["data"][0]["id"]
    chat = (await client.post(CHAT, {"messages": [USER], "max_tokens": 1})).json()["id"]
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"users_may_delete": False})
    for path in (f"{conversation}/items/{item}", conversation, f"{CHAT}/{chat}"):
        answer = await client.request("DELETE", path)
        assert (answer.status, answer.error["code"]) == (403, "permission_denied")
        assert (await client.get(path)).status == 200
