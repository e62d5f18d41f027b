"""GET, POST and DELETE of stored chats: what they take, what they refuse, what they ask of the
database. tests/serve/test_openai_sdk_history.py has the SDK do it."""

from urllib.parse import quote

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import ApiKey, Scope
from conversations.models import Completion, Message
from conversations.own import stored
from conversations.own.stored import Cut
from conversations.services import (
    ChoiceEnd,
    CompletionEnd,
    NewCompletion,
    NewMessage,
    completion_finish,
    completion_start,
    completions_flush,
)
from llmapi.executors import database
from tests.door.test_history import CHAT

BODY = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
ODD_KEYS = [
    *("plain", "a.b", "a__b", "1", "-1", "a[b]", "a]b[", "$", "$.a", "*", "%", "_", " ", "null"),
    *('"', 'a"b', "'", "a'b", "\\", "a\\", '\\"', "a\nb", "用户😀", "é", "' OR 1=1 --", "x" * 64),
]


async def ids(client, query=""):
    answer = await client.get(f"{CHAT}?{query}")
    assert answer.status == 200, answer.body
    return [one["id"] for one in answer.json()["data"]]


def label(key, value):
    return f"metadata[{quote(key)}]={quote(value)}"


@pytest.fixture
def rows(user):
    """rows(count, **fields): completed chats, made without a model."""

    def make(count, **fields):
        now = timezone.now()
        values = {"user": user, "kind": "chat", "model": "m", "status": "completed"}
        numbers = range(Completion.objects.count(), Completion.objects.count() + count)
        made = [
            Completion(**{**values, "public_id": f"chatcmpl-{i:05}", "created_at": now, **fields})
            for i in numbers
        ]
        return [row.public_id for row in Completion.objects.bulk_create(made)]

    return sync_to_async(make)


async def test_any_key_of_the_metadata_can_be_asked_for(client, rows):
    """Whatever characters it is made of; and no key is read as a place in something."""
    by_key = {}
    for key in ODD_KEYS:
        (by_key[key],) = await rows(1, metadata={key: key + "'s value", "all": "1"})
    await rows(2, metadata={"all": "2", "list": "x"})
    for key in ODD_KEYS:
        assert await ids(client, label(key, key + "'s value")) == [by_key[key]], key
        assert await ids(client, label(key, "another")) == [], key
    both = label("all", "1") + "&" + label("a.b", "a.b's value")
    assert await ids(client, both) == [by_key["a.b"]]
    assert await ids(client, label("all", "3")) == []


async def test_pages_of_one_moment_lose_and_repeat_nothing(client, rows):
    made = await rows(25)
    for order, wanted in (("asc", made), ("desc", made[::-1])):
        found, after = [], ""
        while True:
            page = (await client.get(f"{CHAT}?limit=4&order={order}{after}")).json()
            found += [one["id"] for one in page["data"]]
            assert page["first_id"] == page["data"][0]["id"]
            assert page["last_id"] == page["data"][-1]["id"]
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
        assert found == wanted
    empty = (await client.get(f"{CHAT}?model=none")).json()
    assert empty == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_the_list_is_read_by_the_index_of_user_and_time(rows, user):
    """However many rows others have, and wherever in the list the page is."""
    made = await rows(40)

    def plan():
        cut = Cut(made[20], 5, True)
        with CaptureQueriesContext(
            connection,
        ) as captured:
            stored.chats_page(user.pk, cut, metadata={"a": "b"}, model="model", status="completed")
        (sql,) = (q["sql"] for q in captured if "ORDER BY" in q["sql"] and "LIMIT 6" in q["sql"])
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET enable_seqscan = off")
                cursor.execute("SET enable_sort = off")
                cursor.execute(f"EXPLAIN {sql}")
                cursor_rows = cursor.fetchall()
                cursor.execute("RESET enable_seqscan")
                cursor.execute("RESET enable_sort")
                return "\n".join(row[0] for row in cursor_rows)
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            return "\n".join(row[3] for row in cursor.fetchall())

    shown = await sync_to_async(plan)()
    index = next(i.name for i in Completion._meta.indexes if i.fields == ["user", "created_at"])
    assert index in shown
    assert "SCAN conversations_completion" not in shown


BAD_LABELS = [
    ({}, "metadata"),
    ({"metadata": "x"}, "metadata"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"metadata": {}, "model": "x"}, "model"),
    ([], None),
]


async def test_a_bad_label_is_a_400_and_changes_nothing(asker, rows):
    (public_id,) = await rows(1, metadata={"a": "b"})
    path = f"{CHAT}/{public_id}"
    for body, param in BAD_LABELS:
        answer = await asker.post(path, body)
        assert (answer.status, answer.error["param"]) == (400, param)
    answer = await asker.post(path, b'{"metadata": {"a": "\\ud800"}}')
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    assert (await Completion.objects.aget()).metadata == {"a": "b"}
    labelled = (await asker.post(path, {"metadata": None})).json()
    assert labelled["metadata"] == {}


@pytest.fixture
def under_way(user, served):
    """A chat of the user's that runs, and has said "so far": (primary key, public id)."""
    new = NewCompletion(
        public_id="chatcmpl-running",
        kind="chat",
        user_id=user.pk,
        api_key_id=None,
        process_id=None,
        model="m",
        parameters={},
        request_id="req_1",
        streamed=True,
        prompt_tokens=3,
        messages=(NewMessage("user", "Hello"),),
    )
    pk = completion_start(new).pk
    completions_flush({pk: (("so far",), 2)})
    return pk, new.public_id


async def test_a_running_chat_is_read_as_far_as_it_has_come_and_not_deleted(client, under_way):
    pk, public_id = under_way
    assert await ids(client) == []
    assert await ids(client, "status=running") == [public_id]
    one = (await client.get(f"{CHAT}/{public_id}")).json()
    assert one["llmapi"]["status"] == "running"
    assert one["choices"][0]["message"]["content"] == "so far"
    assert one["choices"][0]["finish_reason"] is None
    answer = await client.request("DELETE", f"{CHAT}/{public_id}")
    assert (answer.status, answer.error["code"]) == (409, "conversation_busy")

    choices = (ChoiceEnd(0, "so far and no further", None),)
    end = CompletionEnd(Completion.Status.CANCELLED, choices, 3, 5, 1, 2)
    await database.run(completion_finish, pk, end)
    # Cancelled: not in the list of answers, and there with its part.
    assert await ids(client) == []
    assert await ids(client, "status=cancelled") == await ids(client, "status=any") == [public_id]
    one = (await client.get(f"{CHAT}/{public_id}")).json()
    assert one["choices"][0]["message"]["content"] == "so far and no further"
    assert one["choices"][0]["finish_reason"] is None
    assert (await client.request("DELETE", f"{CHAT}/{public_id}")).json()["deleted"] is True
    assert await ids(client, "status=any") == []


async def test_a_conversation_that_is_being_answered_is_not_changed(client, under_way):
    (one,) = (await client.get("/v1/conversations")).json()["data"]
    conversation = f"/v1/conversations/{one['id']}"
    message = await Message.objects.aget()
    for answer in (
        await client.post(f"{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
        await client.request("DELETE", f"{conversation}/items/{message.public_id}"),
        await client.request("DELETE", conversation),
    ):
        assert (answer.status, answer.error["code"]) == (409, "conversation_busy")
    assert await Message.objects.acount() == 1


async def test_a_chat_that_failed_before_its_first_word_has_a_choice_without_content(
    client, under_way
):
    pk, public_id = under_way
    end = CompletionEnd(Completion.Status.FAILED, (), 3, 0, None, 2, "It broke.")
    await database.run(completion_finish, pk, end)
    one = (await client.get(f"{CHAT}/{public_id}")).json()
    assert (one["llmapi"]["status"], one["llmapi"]["error"]) == ("failed", "It broke.")
    assert [choice["message"]["content"] for choice in one["choices"]] == [None]


async def test_all_choices_and_content_parts_come_back(client):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "system", "content": "Be kind."}]
    messages.append({"role": "user", "content": parts, "name": "ann"})
    body = {"messages": messages, "n": 3, "max_tokens": 3, "temperature": 1, "seed": 5, "user": "u"}
    answer = (await client.post(CHAT, {**body, "model": "random"})).json()
    one = (await client.get(f"{CHAT}/{answer['id']}")).json()
    for same in ("id", "object", "created", "model", "choices", "usage", "conversation"):
        assert one[same] == answer[same], same
    assert (one["seed"], one["temperature"], one["input_user"]) == (5, 1, "u")
    page = (await client.get(f"{CHAT}/{answer['id']}/messages")).json()
    system, user = page["data"]
    assert (system["content"], system["content_parts"]) == ("Be kind.", None)
    assert (user["content"], user["content_parts"], user["name"]) == ("Hello", parts, "ann")
    path = f"{CHAT}/{answer['id']}/messages?limit=1&order=desc"
    page = (await client.get(path)).json()
    assert ([m["id"] for m in page["data"]], page["has_more"]) == ([user["id"]], True)
    page = (await client.get(f"{path}&after={user['id']}")).json()
    assert ([m["id"] for m in page["data"]], page["has_more"]) == ([system["id"]], False)
    assert (await client.get(f"{path}&after=msg_x")).error["param"] == "after"


async def test_scopes_open_what_they_say(client, user):
    said = await client.chat(max_tokens=2)
    routes = [
        ("GET", CHAT),
        ("GET", f"{CHAT}/{said['id']}"),
        ("GET", f"/v1/conversations/{said['conversation']['id']}/items"),
        ("DELETE", f"{CHAT}/{said['id']}"),
    ]
    for scope, wanted in (
        (Scope.CHAT, [403, 403, 403, 403]),
        (Scope.READ_ONLY, [200, 200, 200, 403]),
        (Scope.HISTORY, [200, 200, 200, 200]),
    ):
        await ApiKey.objects.aupdate(scopes=[scope])
        found = [(await client.request(*route)).status for route in routes]
        assert found == wanted, scope
        may_chat = (await client.post(CHAT, BODY)).status
        assert may_chat == (200 if scope == Scope.CHAT else 403), scope
