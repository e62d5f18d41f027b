"""Exports leave line by line, with their rights, their escapes, and a line in the audit log."""

import asyncio
import csv
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.contrib.auth.models import Group
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEvent, User
from accounts.services import key_create
from conversations import reviews
from conversations.exports import jsonl, portions, spreadsheet
from conversations.exports.streaming import (
    OF_ONE_USER,
    PIECE_BYTES,
    OnThreads,
    export_begin,
    in_pieces,
)
from conversations.models import Completion, Conversation

CONVERSATIONS = "/admin/conversations/conversation/"
COMPLETIONS = "/admin/conversations/completion/"
HOSTILE_CELLS = ("@sum", "+1", "-1", "\tx", "\rx", "=1+1", "  =1+1", "\nx", "＝2", "＠x")


@pytest.fixture
def officer(transactional_db) -> Iterator[AsyncClient]:  # type: ignore[no-untyped-def]
    """A privacy officer at the ASGI application."""
    user = User.objects.create_user("olga", is_staff=True)
    user.groups.add(Group.objects.get(name="privacy officer"))
    client = AsyncClient()
    client.force_login(user)
    yield client
    # The thread on which asgiref runs views holds a connection to the test database.
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


async def text_of(response) -> str:  # type: ignore[no-untyped-def]
    assert response.status_code == 200
    assert response.streaming
    return b"".join([piece async for piece in response]).decode()


@pytest.fixture
def said(transactional_db, history):  # type: ignore[no-untyped-def]
    """Two conversations of alice (one with a branch and a review) and one of bob."""
    alice, bob = (User.objects.create_user(name) for name in ("alice", "bob"))
    key, _ = key_create(user=alice, name="=laptop")
    first = history.say(alice, [("user", "北京?")], "yes", "no", api_key_id=key.pk).conversation
    turns = [("user", "北京?"), ("assistant", "yes"), ("user", "and\nnow?", "al")]
    history.say(alice, turns, "later", api_key_id=key.pk)
    history.say(alice, [("user", "other")], "thing", api_key_id=key.pk)
    history.say(bob, [("user", "of bob")], "thing")
    first.refresh_from_db()
    reviews.review_save(
        first.pk,
        reviews.Judgement(4, ["good"], "fine"),
        reviewer=bob,
        version="",
        seen_at=first.updated_at,
    )
    return first


async def test_transcripts_are_one_conversation_a_line_with_tree_model_and_review(
    officer, said
) -> None:
    response = await officer.post(f"{CONVERSATIONS}export/?user=alice")
    assert response["Content-Disposition"].startswith('attachment; filename="conversations-')
    assert response["Content-Disposition"].endswith('.jsonl"')
    assert "no-store" in response["Cache-Control"]
    first, second = map(json.loads, (await text_of(response)).splitlines())
    assert (first["id"], first["user"], first["key"]) == (said.public_id, "alice", "=laptop")
    assert second["review"] is None
    review = first["review"]
    assert (review["reviewer"], review["score"]) == ("bob", 4)
    assert (review["labels"], review["notes"]) == (["good"], "fine")
    by_id = {message["id"]: message for message in first["messages"]}
    told = [
        (m["role"], m["content"], m["parent"] and by_id[m["parent"]]["content"], m.get("model"))
        for m in first["messages"]
    ]
    assert told == [
        ("user", "北京?", None, None),
        ("assistant", "yes", "北京?", "tiny"),
        ("assistant", "no", "北京?", "tiny"),
        ("user", "and\nnow?", "yes", None),
        ("assistant", "later", "and\nnow?", "tiny"),
    ]
    assert first["messages"][1]["finish_reason"] == "stop"
    assert first["messages"][3]["name"] == "al"


async def test_requests_are_csv_without_text_and_without_formulas(officer, said, history) -> None:
    def hostile() -> None:
        for name in HOSTILE_CELLS:
            user = User.objects.create_user(f"{name} user")
            history.say(user, [("user", "hello")], "there", model=name, request_id='a "b", c')
        Completion.objects.update(error="secret", metadata={"secret": "secret"})

    await sync_to_async(hostile)()
    text = await text_of(await officer.post(f"{COMPLETIONS}export/"))
    assert "secret" not in text
    names, *rows = csv.reader(io.StringIO(text, newline=""))
    assert names == list(spreadsheet.COLUMNS)
    assert len(rows) == 4 + len(HOSTILE_CELLS)
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip(" ")[:1] in "=+-@\t\r\n＝＋－＠" and cell]
    by_name = [dict(zip(names, row, strict=True)) for row in rows]
    assert by_name[0]["key"] == "'=laptop"
    assert (by_name[0]["prompt_tokens"], by_name[0]["completion_tokens"]) == ("7", "5")
    assert [row["model"] for row in by_name[4:]] == [f"'{name}" for name in HOSTILE_CELLS]
    assert by_name[4]["request_id"] == 'a "b", c'


async def test_an_export_is_in_the_audit_log_before_its_first_byte(officer, said) -> None:
    query = "?user=alice&q=secret+words&key=secret+project&status=failed&o=1"
    response = await officer.post(f"{CONVERSATIONS}export/{query}", REMOTE_ADDR="10.1.2.3")
    event = await AuditEvent.objects.select_related("actor").aget()  # nothing is read yet
    assert (event.action, event.actor.username) == ("export", "olga")
    assert event.address == "127.0.0.1"
    assert event.detail["format"] == "jsonl"
    filters = {"user": "alice", "q": "…", "key": "…", "status": "failed", "o": "1"}
    assert event.detail["filters"] == filters
    assert "secret" not in json.dumps(event.detail)
    await text_of(response)


async def test_ticked_rows_are_exported_and_each_is_in_the_audit_log(officer, said) -> None:
    data = {"action": "export_selected", "_selected_action": [said.pk]}
    lines = (await text_of(await officer.post(CONVERSATIONS, data))).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [said.public_id]
    assert [event.target async for event in AuditEvent.objects.all()] == [said.public_id]


async def test_a_page_says_what_an_export_would_hold_and_exports_nothing(officer, said) -> None:
    response = await officer.get(f"{CONVERSATIONS}export/?user=alice")
    body = response.content.decode()
    assert "<strong>2</strong> conversations" in body
    assert "alice" in body
    data = {"action": "export_selected", "_selected_action": [1], "select_across": "1"}
    response = await officer.post(f"{CONVERSATIONS}?user=alice", data)
    assert "<strong>2</strong> conversations" in response.content.decode()
    assert not await AuditEvent.objects.aexists()


async def test_a_page_says_where_a_filter_does_not_look_at_all_rows(officer, said) -> None:
    for query, is_bounded in (
        ("", False),
        ("?user=alice&model=tiny", False),
        ("?model=tiny", True),
        ("?status=completed", True),
        ("?q=thing", True),
    ):
        body = (await officer.get(f"{CONVERSATIONS}export/{query}")).content.decode()
        assert ("filter by user or date" in body) == is_bounded, query


async def test_lines_are_made_while_they_are_read_and_no_more_when_nobody_reads() -> None:
    made, ended = 0, threading.Event()

    def lines() -> Iterator[str]:
        nonlocal made
        try:
            for _ in range(100_000):
                made += 1
                yield "x" * 1000 + "\n"
        finally:
            ended.set()

    response = export_begin(None, lines(), content_type="text/csv", filename="x.csv")
    pieces: AsyncIterator[bytes] = aiter(response)
    assert await anext(pieces) == b"x" * 1000 + b"\n"  # the first line does not wait for others
    assert len(await anext(pieces)) >= PIECE_BYTES
    assert made < 100
    response.close()
    await asyncio.get_running_loop().run_in_executor(None, ended.wait, 10)
    assert ended.is_set()


async def test_an_error_in_the_middle_is_not_an_end() -> None:
    def lines() -> Iterator[str]:
        yield "one\n"
        raise OSError("the database is gone")

    pieces = OnThreads(in_pieces(lines()))
    assert await anext(pieces) == b"one\n"
    with pytest.raises(OSError, match="gone"):
        await anext(pieces)


async def test_an_export_under_way_holds_no_connection_and_its_threads_are_few(said) -> None:
    opened: list[BaseDatabaseWrapper] = []
    names = set()

    def note(connection: BaseDatabaseWrapper, **kwargs: object) -> None:
        opened.append(connection)
        names.add(threading.current_thread().name)

    def lines() -> Iterator[str]:
        for _ in range(3):
            yield str(Conversation.objects.count()) + "x" * PIECE_BYTES

    exports = [OnThreads(in_pieces(lines())) for _ in range(12)]
    connection_created.connect(note)
    try:
        for _ in range(2):
            await asyncio.gather(*(anext(pieces) for pieces in exports))
    finally:
        connection_created.disconnect(note)
    assert len(names) <= 4
    assert len(opened) >= 12
    assert not [connection for connection in opened if connection.connection is not None]
    for pieces in exports:
        pieces.close()


async def test_a_client_may_leave_while_a_piece_is_made() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def lines() -> Iterator[str]:
        try:
            begun.set()
            go_on.wait(10)
            yield "one\n"
        finally:
            ended.set()

    pieces = OnThreads(in_pieces(lines()))
    coming = asyncio.ensure_future(anext(pieces))
    await asyncio.to_thread(begun.wait, 10)
    coming.cancel()
    pieces.close()
    go_on.set()
    assert await asyncio.to_thread(ended.wait, 10)


async def test_a_user_has_few_exports_under_way_and_others_theirs(officer, said) -> None:
    query = f"{CONVERSATIONS}export/"
    under_way = [await officer.post(query) for _ in range(OF_ONE_USER)]
    refused = await officer.post(query, headers={"Accept": "text/html"})
    assert (refused.status_code, refused["Retry-After"]) == (429, "60")
    assert "under way" in refused.content.decode()
    ticked = {"action": "export_selected", "_selected_action": [said.pk]}
    assert (await officer.post(CONVERSATIONS, ticked)).status_code == 429
    # What was refused did not happen.
    assert await AuditEvent.objects.acount() == OF_ONE_USER
    other = AsyncClient()
    await other.aforce_login(await User.objects.aget(username="bob"))
    assert "of bob" in await text_of(await other.get("/history/export/"))
    first, *rest = under_way
    await text_of(first)  # to its end: there is room for another
    again = await officer.post(query)
    assert (await officer.post(query)).status_code == 429
    again.close()  # its client has left
    assert "of bob" in await text_of(await officer.post(query))
    for response in rest:
        response.close()


def test_nothing_to_export_is_an_empty_file(db) -> None:
    assert list(in_pieces(jsonl.conversations_jsonl(Conversation.objects.all()))) == [b""]


@pytest.mark.django_db
def test_an_export_takes_all_rows_in_portions(alice, history, monkeypatch) -> None:
    for index in range(23):
        history.say(alice, [("user", str(index))], "yes")
    monkeypatch.setattr(portions, "KEYS_AT_ONCE", 7)
    monkeypatch.setattr(jsonl, "AT_ONCE", 3)
    monkeypatch.setattr(spreadsheet, "AT_ONCE", 3)
    with CaptureQueriesContext(connection) as queries:
        lines = jsonl.conversations_jsonl(Conversation.objects.order_by("-updated_at"))
        next(lines)
        assert len(queries) <= 5  # the first does not wait for all
        rest = [json.loads(line) for line in lines]
    assert [row["messages"][0]["content"] for row in rest] == [str(n) for n in range(1, 23)]
    assert len(list(spreadsheet.completions_csv(Completion.objects.all()))) == 24


async def test_an_export_by_a_filter_that_is_none_is_refused(officer) -> None:
    for url in (CONVERSATIONS, COMPLETIONS):
        assert (await officer.get(f"{url}export/?updated_at__gte=null")).status_code == 400
