"""The lists of one's own conversations and requests: what is in them, and what is found."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import services as accounts
from accounts.models import ApiKey
from conversations.models import Completion, Conversation
from conversations.own import passages
from conversations.storage import keyset
from tests.accounts.pages import signed_in

U1, A1, U2 = ("user", "Where are zebras?"), ("assistant", "In the south."), ("user", "And lions?")


@pytest.fixture
def reader(alice):
    return signed_in(alice)


@pytest.fixture
def chats(alice, history):
    """chats(n): so many conversations of alice's, the newest first, a second apart."""

    def make(count: int) -> list[Conversation]:
        now = timezone.now()
        made = []
        for number in range(count):
            row = history.say(alice, [("user", f"Question {number}")], f"Answer {number}")
            at = now - timedelta(seconds=number)
            Conversation.objects.filter(pk=row.conversation_id).update(updated_at=at)
            Completion.objects.filter(pk=row.pk).update(created_at=at)
            made.append(Conversation.objects.get(pk=row.conversation_id))
        return made

    return make


def titles(answer) -> list[str]:
    return [row.title for row in answer.context["found"].rows]


def walk(reader, path: str, link: str) -> list[list[str]]:
    """The titles of each page from `path` on, by its links of this name."""
    pages = []
    while path:
        answer = reader.get(path)
        pages.append(titles(answer))
        path = answer.context[link] and "/history/" + answer.context[link]
    return pages


def test_a_list_has_own_conversations_alone_with_what_they_cost(
    reader, alice, bob, history
) -> None:
    history.say(alice, [U1], A1[1])
    history.say(alice, [U1, A1, U2], "In the east.")
    history.say(bob, [("user", "Bob's secret")], "Kept.")
    answer = reader.get("/history/")
    (row,) = answer.context["found"].rows
    assert row.title == "Where are zebras?"
    assert (row.summary.messages, row.summary.requests) == (4, 2)
    assert (row.summary.prompt_tokens, row.summary.completion_tokens) == (14, 10)
    body = answer.content.decode()
    assert "14 + 10" in body
    assert "tiny" in body
    assert "Bob" not in body


def test_pages_forwards_and_backwards_hold_every_row_once(reader, chats, monkeypatch) -> None:
    monkeypatch.setattr(keyset, "SIZE", 3)
    expected = [chat.title for chat in chats(8)]
    down = walk(reader, "/history/", "older_link")
    assert down == [expected[:3], expected[3:6], expected[6:]]
    last = reader.get("/history/")
    while last.context["older_link"]:
        last = reader.get("/history/" + last.context["older_link"])
    up = walk(reader, "/history/" + last.context["newer_link"], "newer_link")
    assert up == [expected[3:6], expected[:3]]


def test_rows_of_one_moment_are_neither_lost_nor_shown_twice(reader, chats, monkeypatch) -> None:
    monkeypatch.setattr(keyset, "SIZE", 2)
    made = chats(5)
    Conversation.objects.update(updated_at=made[0].updated_at)
    pages = walk(reader, "/history/", "older_link")
    assert sorted(title for page in pages for title in page) == sorted(chat.title for chat in made)
    second = reader.get("/history/" + reader.get("/history/").context["older_link"])
    assert walk(reader, "/history/" + second.context["newer_link"], "newer_link") == pages[:1]


def test_a_page_far_down_begins_in_the_index_where_the_last_one_ended(
    reader, chats, monkeypatch
) -> None:
    monkeypatch.setattr(keyset, "SIZE", 3)
    chats(6)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # of so few rows it would read all
            cursor.execute("SET LOCAL enable_seqscan = off")
        for path, time in (("/history/", "updated_at"), ("/history/requests/", "created_at")):
            older = reader.get(path).context["older_link"]
            with CaptureQueriesContext(connection) as queries:
                reader.get(path + older)
            sql = next(q["sql"] for q in queries if q["sql"].endswith("LIMIT 4"))
            explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
            cursor.execute(f"{explain} {sql}")
            plan = "\n".join(str(row) for row in cursor.fetchall())
            assert re.search(rf"(\(user_id=\? AND {time}<\?|Index Cond: .*{time} <=)", plan), plan


@pytest.mark.parametrize(
    "cursor", ["x", "-", "99999999999999999999-conv_a", "99999999999999999-conv_a", "²-a"]
)
def test_a_cursor_that_nobody_gave_out_is_no_error(reader, chats, cursor) -> None:
    chats(1)
    for name in ("older", "newer"):
        assert reader.get(f"/history/?{name}={cursor}").status_code == 200


def test_words_are_found_in_messages_and_titles_and_shown_with_what_is_around(
    reader, alice, bob, history
) -> None:
    said = history.say(alice, [U1], 'Lions "sleep"\nfar <b>north</b> of zebras, 在北京。')
    history.say(alice, [("user", "Nothing of it")], "No.")
    history.say(bob, [U1], "Lions sleep far north.")
    for words in ("LIONS", "north lions", '"sleep"', "北京", "Where", "<b>north</b>"):
        answer = reader.get("/history/", {"q": words})
        assert titles(answer) == ["Where are zebras?"], words
    body = reader.get("/history/", {"q": "lions"}).content.decode()
    assert "<mark>Lions</mark> &quot;sleep&quot; far &lt;b&gt;north&lt;/b&gt;" in body
    Conversation.objects.filter(pk=said.conversation_id).update(title="Safari")
    assert titles(reader.get("/history/", {"q": "safari"})) == ["Safari"]
    assert titles(reader.get("/history/", {"q": "lions elephants"})) == []


def test_a_word_too_many_is_refused_and_not_left_out(reader, alice, history) -> None:
    history.say(alice, [U1], "one two three four five six seven eight nine")
    eight = "one two three four five six seven eight"
    assert titles(reader.get("/history/", {"q": eight})) == ["Where are zebras?"]
    refused = reader.get("/history/", {"q": f"{eight} nine"})
    assert titles(refused) == []
    assert "Search for 8 words at most." in refused.content.decode()


def test_a_search_by_id_leads_to_the_page_of_what_it_names(reader, alice, bob, history) -> None:
    own_chat, others = history.say(alice, [U1], A1[1]), history.say(bob, [U1], A1[1])
    conversation = own_chat.conversation.public_id
    answer = reader.get("/history/", {"q": conversation})
    assert answer["Location"] == f"/history/{conversation}/"
    answer = reader.get("/history/requests/", {"q": own_chat.public_id})
    assert answer["Location"] == f"/history/requests/{own_chat.public_id}/"
    assert titles(reader.get("/history/", {"q": others.conversation.public_id})) == []


def test_filters_by_model_key_and_day_go_together(reader, alice, history) -> None:
    key, _ = accounts.key_create(user=alice, name="ci")
    played, _ = accounts.key_create(user=alice)
    ApiKey.objects.filter(pk=played.pk).update(for_playground=True)
    now = timezone.now()
    for title, model, by, days in (
        ("one", "tiny", key, 0),
        ("two", "large", key, 0),
        ("three", "tiny", played, 0),
        ("four", "tiny", key, 9),
    ):
        row = history.say(alice, [("user", title)], "Yes.", model=model, api_key_id=by.pk)
        Conversation.objects.filter(pk=row.conversation_id).update(
            updated_at=now - timedelta(days=days, seconds=row.pk)
        )

    def found(**asked: str) -> set[str]:
        return set(titles(reader.get("/history/", asked)))

    today, long_ago = (
        f"{now - timedelta(seconds=99):%Y-%m-%d}",
        f"{now - timedelta(days=9):%Y-%m-%d}",
    )
    assert found(model="tiny") == {"one", "three", "four"}
    assert found(key=key.public_id) == {"one", "two", "four"}
    assert found(key="playground") == {"three"}
    assert found(since=today) == {"one", "two", "three"}
    assert found(until=long_ago) <= {"four"}
    assert found(model="tiny", key=key.public_id, since=today) == {"one"}
    assert found(q="Yes", model="large") == {"two"}


def test_filters_that_mean_nothing_are_said_beside_their_field(reader, bob, chats) -> None:
    chats(1)
    others, _ = accounts.key_create(user=bob, name="bob's")
    for asked, field in (
        ({"key": others.public_id}, "key"),
        ({"q": "x" * 201}, "q"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-02-01", "until": "2026-01-31"}, "until"),
    ):
        answer = reader.get("/history/", asked)
        assert answer.status_code == 200
        assert field in answer.context["form"].errors
        assert titles(answer) == []
    assert reader.get("/history/", {"until": "9999-12-31"}).context["found"].rows
    for asked in ({"since": "9999-12-31"}, {"model": "unheard-of"}):
        assert reader.get("/history/", asked).context["found"].rows == []


def test_a_long_search_stops_and_goes_on_where_it_stopped(reader, chats, monkeypatch) -> None:
    monkeypatch.setattr(keyset, "WINDOW", 3)
    made = chats(8)
    steps = 0
    answer = reader.get("/history/", {"q": f"{made[7].title[-1]} Question"})
    while not answer.context["found"].rows:
        assert answer.context["found"].looked_until is not None
        assert "Look further back" in answer.content.decode()
        answer = reader.get("/history/" + answer.context["older_link"])
        steps += 1
    assert titles(answer) == ["Question 7"]
    assert steps == 2
    # Back by the way it came: nothing in the window before it, so from the beginning.
    back = reader.get("/history/" + answer.context["newer_link"])
    assert back.context["found"].looked_until == made[2].updated_at
    assert not back.context["newer_link"]


def test_requests_of_all_kinds_are_listed_with_how_they_ended(reader, alice, bob, history) -> None:
    history.say(alice, [U1], A1[1])
    pk = history.start(alice, prompt=["Once upon", "a time"])
    history.finish(pk, "there was", status="cancelled")
    embedded = history.start(alice, kind="embedding", prompt="北京 <i>")
    history.finish(embedded, completion_tokens=0)
    history.start(alice, prompt="still going")
    history.say(bob, [("user", "Bob's")], "No.")
    answer = reader.get("/history/requests/")
    shown = [(row.excerpt, row.kind, row.status) for row in answer.context["found"].rows]
    assert shown == [
        ("still going", "completion", "running"),
        ("北京 <i>", "embedding", "completed"),
        ("Once upon / a time", "completion", "cancelled"),
        ("Where are zebras?", "chat", "completed"),
    ]
    assert "北京 &lt;i&gt;" in answer.content.decode()

    def found(**asked: str) -> list[str]:
        rows = reader.get("/history/requests/", asked).context["found"].rows
        return [row.excerpt for row in rows]

    assert found(kind="embedding") == ["北京 <i>"]
    assert found(q="there was") == ["Once upon / a time"]
    assert found(q="zebras") == ["Where are zebras?"]
    assert "kind" in reader.get("/history/requests/", {"kind": "x"}).context["form"].errors


def test_a_deleted_request_is_in_no_list(reader, alice, history) -> None:
    row = history.say(alice, [U1], A1[1])
    Completion.objects.filter(pk=row.pk).update(erased_at=timezone.now())
    assert reader.get("/history/requests/").context["found"].rows == []
    assert reader.get(f"/history/requests/{row.public_id}/").status_code == 404


@pytest.mark.parametrize("path", ["/history/", "/history/?q=answer", "/history/requests/?q=answer"])
def test_a_page_of_many_takes_as_many_queries_as_one_of_few(reader, chats, path) -> None:
    chats(2)
    reader.get(path)
    with CaptureQueriesContext(connection) as few:
        reader.get(path)
    chats(30)
    with CaptureQueriesContext(connection) as many:
        answer = reader.get(path)
    assert len(answer.context["found"].rows) == keyset.SIZE
    assert len(many) == len(few) <= 16


def test_no_list_counts_or_reads_all_rows(reader, chats) -> None:
    chats(30)
    with CaptureQueriesContext(connection) as queries:
        reader.get("/history/")
        reader.get("/history/requests/")
    reading = [q["sql"] for q in queries if "LIMIT" not in q["sql"]]
    for sql in reading:
        assert " IN (" in sql or "accounts_" in sql or "django_" in sql, sql


def test_excerpts_are_lines_without_the_ends_of_escapes() -> None:
    assert passages.around('"Say \\"hi\\"\\nto 北京\\u000b"', is_start=True).startswith(
        'Say "hi" to 北京'
    )
    assert passages.around("alf a word then all\\", is_start=False) == "… a word then all"
    pieces = list(passages.highlighted("Aa b AA", ["aa"]))
    assert pieces == [("Aa", True), (" b ", False), ("AA", True)]
