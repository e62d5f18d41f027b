"""Pages of history and usage are for their owner, by a session."""

import json

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections
from django.test import AsyncClient, Client

from accounts import services as accounts
from accounts.models import User
from conversations.exports import jsonl
from conversations.models import Completion, Conversation
from tests.accounts.pages import HTML, signed_in

U1, A1, U2 = ("user", "Where are zebras?"), ("assistant", "In the south."), ("user", "And lions?")


@pytest.fixture
def chat(alice, history) -> Completion:
    return history.say(alice, [U1], A1[1])


@pytest.fixture
def written(alice, history) -> Completion:
    pk = history.start(alice, prompt="Once upon")
    history.finish(pk, "a time")
    return Completion.objects.get(pk=pk)


def paths(chat: Completion, written: Completion) -> list[str]:
    """Of everything that is somebody's."""
    conversation, message = chat.conversation.public_id, chat.outputs.get().public_id
    own = ("", "export/", "delete/", "rename/", f"messages/{message}/")
    return [
        *(f"/history/{conversation}/{rest}" for rest in own),
        *(f"/history/requests/{written.public_id}/{rest}" for rest in ("", "export/", "delete/")),
        f"/history/requests/{chat.public_id}/",
        f"/history/requests/{chat.public_id}/delete/",
    ]


def test_what_is_anothers_does_not_exist(bob, chat, written) -> None:
    stranger = signed_in(bob)
    staff = signed_in(User.objects.create_superuser("boss", password="x"))
    for client in (stranger, staff):
        for path in paths(chat, written):
            method = client.post if path.endswith("rename/") else client.get
            assert method(path).status_code == 404, path
            if path.endswith("delete/"):
                assert client.post(path).status_code == 404, path
    assert Conversation.objects.count() == 1
    assert Completion.objects.filter(erased_at=None).count() == 2


def test_without_a_session_everybody_is_asked_to_sign_in(alice, chat, written) -> None:
    _, text = accounts.key_create(user=alice)
    lists = ("/usage/", "/history/", "/history/requests/", "/history/export/")
    for client in (Client(), Client(headers={"authorization": f"Bearer {text}"})):
        for path in (*lists, "/history/requests/export/", *paths(chat, written)):
            answer = client.get(path, **HTML)
            assert answer.status_code == 302, path
            assert answer["Location"].startswith("/sign-in/?next=/"), path


def test_what_nobody_has_is_404(alice) -> None:
    assert signed_in(alice).get("/history/%F0%9F%A6%93/").status_code == 404


def test_nothing_is_deleted_by_a_link_or_without_the_forms_token(alice, chat) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    path = f"/history/{chat.conversation.public_id}/"
    assert strict.get(f"{path}delete/").status_code == 200
    assert strict.post(f"{path}delete/").status_code == 403
    assert strict.post(f"{path}rename/", {"title": "x"}).status_code == 403
    chat.conversation.refresh_from_db()
    assert chat.conversation.title == "Where are zebras?"


def test_a_deleted_conversation_is_gone_and_its_usage_stays(alice, chat, history) -> None:
    client = signed_in(alice)
    path = f"/history/{chat.conversation.public_id}/"
    answer = client.post(f"{path}delete/", follow=True)
    assert "The conversation is deleted." in answer.content.decode()
    assert "zebras" not in answer.content.decode()
    assert client.get(path).status_code == client.post(f"{path}delete/").status_code == 404
    assert not Conversation.objects.exists()
    chat.refresh_from_db()
    assert chat.erased_at is not None
    assert chat.prompt_tokens == 7
    assert "Requests</dt><dd>1</dd>" in client.get("/usage/").content.decode()


def test_a_deleted_request_takes_its_answer_and_the_rest_stays(alice, chat, history) -> None:
    client = signed_in(alice)
    later = history.say(alice, [U1, A1, U2], "In the east.")
    answer = client.post(f"/history/requests/{later.public_id}/delete/")
    assert answer["Location"] == f"/history/{chat.conversation.public_id}/"
    body = client.get(answer["Location"]).content.decode()
    assert "In the south." in body
    assert "lions" not in body
    assert "In the east." not in body
    answer = client.post(f"/history/requests/{chat.public_id}/delete/")
    assert answer["Location"] == "/history/"
    assert not Conversation.objects.exists()


def test_what_is_being_answered_is_not_deleted(alice, history) -> None:
    client = signed_in(alice)
    running = Completion.objects.get(pk=history.start(alice, [U1]))
    for path in (
        f"/history/{running.conversation.public_id}/",
        f"/history/requests/{running.public_id}/",
    ):
        answer = client.post(f"{path}delete/", follow=True)
        assert "still being answered" in answer.content.decode()
    assert Conversation.objects.get().messages.count() == 1


def test_an_operator_may_forbid_deleting(alice, chat, written, settings) -> None:
    client = signed_in(alice)
    conversation = f"/history/{chat.conversation.public_id}/"
    request = f"/history/requests/{written.public_id}/"
    for path in (conversation, request):
        assert "delete/" in client.get(path).content.decode()
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"users_may_delete": False})
    for path in (conversation, request):
        assert "delete/" not in client.get(path).content.decode()
        assert client.get(f"{path}delete/").status_code == 403
        assert client.post(f"{path}delete/").status_code == 403
    assert Completion.objects.filter(erased_at=None).count() == 2


# ---- exports -------------------------------------------------------------------------------------


@pytest.fixture
def reader(transactional_db, alice):
    """alice at the ASGI application."""
    client = AsyncClient()
    client.force_login(alice)
    yield client
    # The thread on which asgiref runs views holds a connection to the test database.
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


async def lines_of(response) -> list[dict]:
    assert response.status_code == 200
    assert response.streaming
    text = b"".join([piece async for piece in response]).decode()
    assert all(line.startswith("{") for line in text.splitlines())
    return [json.loads(line) for line in text.splitlines()]


async def test_exports_have_all_of_ones_own_and_nothing_of_others(
    reader, alice, bob, history, monkeypatch
) -> None:
    monkeypatch.setattr(jsonl, "AT_ONCE", 2)

    def say() -> Completion:
        first = history.say(alice, [("user", "北京?")], "yes", "no")
        for number in range(4):
            history.say(alice, [("user", f"Question {number}")], "Answer.")
        history.say(bob, [("user", "Bob's")], "Kept.")
        history.finish(history.start(alice, prompt=["Once\nupon"]), "a time")
        history.finish(history.start(alice, kind="embedding", prompt="text"))
        history.finish(history.start(bob, prompt="Bob's"), "Kept.")
        return first

    first = await sync_to_async(say)()
    answer = await reader.get("/history/export/")
    assert answer["Content-Disposition"] == 'attachment; filename="conversations.jsonl"'
    lines = await lines_of(answer)
    assert [line["title"] for line in lines] == ["北京?", *(f"Question {n}" for n in range(4))]
    said = lines[0]["messages"]
    assert [message["content"] for message in said] == ["北京?", "yes", "no"]
    assert [message["parent"] for message in said[1:]] == [said[0]["id"]] * 2
    assert "review" not in lines[0]
    conversation = await sync_to_async(lambda: first.conversation.public_id)()
    (line,) = await lines_of(await reader.get(f"/history/{conversation}/export/"))
    assert line == lines[0]

    lines = await lines_of(await reader.get("/history/requests/export/"))
    assert [(line["kind"], line["prompt"]) for line in lines] == [
        ("completion", ["Once\nupon"]),
        ("embedding", "text"),
    ]
    assert lines[0]["output"] == [{"text": "a time", "finish_reason": "stop"}]
    assert lines[0]["usage"]["completion_tokens"] == 5
    one = await lines_of(await reader.get(f"/history/requests/{lines[1]['id']}/export/"))
    assert one == lines[1:]


async def test_an_export_of_nothing_is_empty(reader) -> None:
    assert await lines_of(await reader.get("/history/export/")) == []
    assert await lines_of(await reader.get("/history/requests/export/")) == []
