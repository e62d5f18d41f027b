"""Staff read the history in the admin, whatever is in it, and change nothing."""

import html
from datetime import timedelta
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from accounts import services as accounts
from accounts.models import User
from conversations import selectors
from conversations.models import Completion, Conversation, Message, ServerProcess
from conversations.processes.presence import process_register
from conversations.services import completions_flush
from conversations.staff.reading import ShallowPaginator

pytestmark = pytest.mark.django_db

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>'\"&{{ 7|add:7 }}\u202egnp.exe"
U1, A1, U2 = ("user", "hello"), ("assistant", "hi there"), ("user", "how are you?")
LISTS = ["conversation", "completion", "serverprocess"]


def list_url(model: str) -> str:
    return reverse(f"admin:conversations_{model}_changelist")


def page_url(row) -> str:  # type: ignore[no-untyped-def]
    return reverse(f"admin:conversations_{row._meta.model_name}_change", args=[row.pk])


def body(client, url: str, **query: str) -> str:  # type: ignore[no-untyped-def]
    response = client.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


def titles(client, **query: str) -> set[str]:  # type: ignore[no-untyped-def]
    """Which of the conversations, titled by their first words, the list shows."""
    text = body(client, list_url("conversation"), **query)
    return {
        title for title in Conversation.objects.values_list("title", flat=True) if title in text
    }


# ---- reading -------------------------------------------------------------------------------------


def test_transcript_shows_who_said_what_with_model_tokens_timings_and_status(
    staff_client, alice, history
) -> None:
    row = history.say(alice, [("system", "You are kind."), U1], "hi there")
    text = body(staff_client, page_url(row.conversation))
    for expected in (
        "You are kind.",
        "hello",
        "hi there",
        "system",
        "assistant",
        "tiny",
        "7 + 5 tokens",
        "first token after 12 ms",
        "took 345 ms",
        "temperature=0.2",
        'data-status="completed"',
        "alice",
        row.conversation.public_id,
        page_url(row),
    ):
        assert expected in text


def test_branches_are_marked_and_told_apart(staff_client, alice, history) -> None:
    history.say(alice, [U1], "hi there")
    history.say(alice, [U1, A1, U2], "fine")
    history.say(alice, [U1, A1, U2], "very well")
    history.say(alice, [U1, A1, ("user", "bye")], "goodbye")
    conversation = Conversation.objects.get()
    entries = [
        (entry.level, entry.version, entry.versions, entry.text)
        for entry in selectors.transcript(conversation)
    ]
    assert entries == [
        (0, 1, 1, "hello"),
        (0, 1, 1, "hi there"),
        (1, 1, 2, "how are you?"),
        (2, 1, 2, "fine"),
        (2, 2, 2, "very well"),
        (1, 2, 2, "bye"),
        (1, 1, 1, "goodbye"),
    ]
    text = body(staff_client, page_url(conversation))
    assert text.count("branch 1 of 2") == 2
    assert text.count("branch 2 of 2") == 2


def test_requests_without_a_message_stand_where_their_answer_would(alice, history) -> None:
    failed = history.start(alice, [U1])
    history.finish(failed, status="failed", error="engine ended")
    running = history.start(alice, [U2])
    completions_flush({running: (("so far",), 1)})
    entries = selectors.transcript(Completion.objects.get(pk=failed).conversation)
    assert [(e.message is None, e.completion and e.completion.pk) for e in entries] == [
        (False, None),
        (True, failed),
    ]
    entries = selectors.transcript(Completion.objects.get(pk=running).conversation)
    assert (entries[1].text, entries[1].completion.status) == ("so far", "running")


def test_cut_answers_are_visible_at_a_glance(staff_client, alice, history) -> None:
    for status in ("cancelled", "interrupted", "failed"):
        pk = history.start(alice, [("user", f"be {status}")])
        history.finish(pk, "part", status=status, error=f"because {status}")
        conversation = Completion.objects.get(pk=pk).conversation
        text = body(staff_client, page_url(conversation))
        assert f'data-status="{status}"' in text
        assert f"because {status}" in text
    listed = body(staff_client, list_url("conversation"))
    assert all(f'data-status="{s}"' in listed for s in ("cancelled", "interrupted", "failed"))


def test_completion_and_embedding_pages_show_inputs_and_outputs(
    staff_client, alice, history
) -> None:
    completion = history.start(alice, prompt=["Once upon", "In the year"])
    history.finish(completion, "a time", "2525")
    embedding = history.start(alice, kind="embedding", prompt=[[11, 22], [33]])
    history.finish(embedding)
    text = body(staff_client, page_url(Completion.objects.get(pk=completion)))
    assert all(part in text for part in ("Once upon", "In the year", "a time", "2525"))
    text = body(staff_client, page_url(Completion.objects.get(pk=embedding)))
    assert "[11,22]" in text
    assert "Inputs" in text


def test_chat_page_shows_question_answers_and_the_way_to_the_transcript(
    staff_client, alice, history
) -> None:
    row = history.say(alice, [U1], "hi there", "good day")
    text = body(staff_client, page_url(row))
    assert all(part in text for part in ("hello", "hi there", "good day"))
    assert f"{page_url(row.conversation)}#{row.head.public_id}" in text


def test_row_without_content_or_conversation_is_still_a_page(staff_client, alice, history) -> None:
    row = history.say(alice, [U1], "hi there")
    row.content.delete()
    row.conversation.delete()
    assert row.public_id in body(staff_client, page_url(row))


def test_hostile_text_is_escaped_wherever_it_is_shown(staff_client, db, history) -> None:
    mallory = User.objects.create_user(HOSTILE[:150])
    key, _ = accounts.key_create(user=mallory, name=HOSTILE[:100])
    fields = {"api_key_id": key.pk, "model": HOSTILE, "parameters": {HOSTILE: HOSTILE}}
    fields["request_id"] = HOSTILE[:64]
    parts = [{"type": "text", "text": HOSTILE}, {"type": HOSTILE}]
    message = (HOSTILE[:20], parts, HOSTILE[:100])
    chat = history.start(mallory, [message, ("user", HOSTILE)], **fields)
    history.finish(chat, HOSTILE, status="failed", error=HOSTILE)
    silent = history.start(mallory, [("user", HOSTILE)], **fields)
    history.finish(silent, status="failed", error=HOSTILE)
    completion = history.start(mallory, prompt=HOSTILE, **fields)
    history.finish(completion, HOSTILE)
    process_register(uuid=uuid4(), host=HOSTILE, pid=1, lock_path="")
    pages = [list_url(model) for model in LISTS]
    pages += [page_url(row) for row in Conversation.objects.all()]
    pages += [page_url(row) for row in Completion.objects.all()]
    pages += [page_url(row) for row in ServerProcess.objects.all()]
    for page in pages:
        text = body(staff_client, page)
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(1)" in text
    for query in ("q", "user", "key", "model", "status"):
        text = body(staff_client, list_url("conversation"), **{query: HOSTILE})
        assert "<script>alert" not in text


def test_texts_come_out_whole(staff_client, alice, history) -> None:
    row = history.say(alice, [("user", HOSTILE)], "北京 😀\n\n  indented")
    text = html.unescape(body(staff_client, page_url(row.conversation)))
    assert HOSTILE in text
    assert "北京 😀\n\n  indented" in text


# ---- finding -------------------------------------------------------------------------------------


@pytest.fixture
def three(alice, bob, history):  # type: ignore[no-untyped-def]
    """Conversations `ask alpha`, `ask beta` and `ask gamma`, different in everything."""
    key, _ = accounts.key_create(user=alice, name="laptop")
    history.say(alice, [("user", "ask alpha")], "the answer is Beijing", api_key_id=key.pk)
    history.say(bob, [("user", "ask beta")], 'the "answer" is 北京\nreally 100%', model="big")
    pk = history.start(bob, [("user", "ask gamma")], model="big")
    history.finish(pk, "part", status="cancelled")
    Conversation.objects.filter(title="ask gamma").update(
        updated_at=timezone.now() - timedelta(days=40)
    )
    return key


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, {"ask alpha", "ask beta", "ask gamma"}),
        ({"user": "alice"}, {"ask alpha"}),
        ({"user": "nobody"}, set()),
        ({"key": "laptop"}, {"ask alpha"}),
        ({"model": "big"}, {"ask beta", "ask gamma"}),
        ({"model": "big", "status": "cancelled"}, {"ask gamma"}),
        ({"status": "completed"}, {"ask alpha", "ask beta"}),
        ({"q": "beijing"}, {"ask alpha"}),
        ({"q": "北京"}, {"ask beta"}),
        ({"q": '"answer"'}, {"ask beta"}),
        ({"q": "100%"}, {"ask beta"}),
        ({"q": "%"}, {"ask beta"}),
        ({"q": "ASK"}, {"ask alpha", "ask beta", "ask gamma"}),
        ({"q": "beijing", "user": "bob"}, set()),
        ({"q": "x" * 100_000}, set()),
    ],
)
def test_list_finds_conversations(staff_client, three, query, found) -> None:
    assert titles(staff_client, **query) == found


def test_list_finds_by_key_as_it_is_shown_by_id_and_by_date(staff_client, three) -> None:
    assert titles(staff_client, key=three.masked) == {"ask alpha"}
    alpha = Conversation.objects.get(title="ask alpha")
    assert titles(staff_client, q=alpha.public_id) == {"ask alpha"}
    assert titles(staff_client, q=alpha.completions.get().public_id) == {"ask alpha"}
    month = {"updated_at__gte": str(timezone.now() - timedelta(days=7))}
    assert titles(staff_client, **month) == {"ask alpha", "ask beta"}


def test_completion_list_finds_prompts_answers_ids_and_kinds(staff_client, three, history) -> None:
    pk = history.start(three.user, prompt="Once upon", kind="completion", public_id="cmpl-x")
    history.finish(pk, "a time in 北京")
    url = list_url("completion")

    def found(**query: str) -> int:
        text = body(staff_client, url, **query)
        return sum(f">{row.public_id}<" in text for row in Completion.objects.all())

    assert found() == 4
    assert found(q="once UPON") == 1
    assert found(q="北京") == 2
    assert found(q="ask gamma") == 1
    assert found(q="cmpl-x") == 1
    assert found(q=Completion.objects.get(pk=pk).request_id) == 1
    assert found(kind__exact="completion") == 1
    assert found(user="bob", status="cancelled") == 1


def test_search_of_words_goes_no_further_than_the_newest_and_says_so(
    staff_client, alice, history, monkeypatch
) -> None:
    rows = [history.say(alice, [("user", f"about {n}")], "an answer") for n in range(4)]
    assert titles(staff_client, q="an answer") == {f"about {n}" for n in range(4)}
    monkeypatch.setattr(selectors, "SEARCHED", 2)
    assert titles(staff_client, q="an answer") == {"about 3", "about 2"}
    assert "Only the newest 2" in body(staff_client, list_url("conversation"), q="answer")
    assert "Only the newest 2" in body(staff_client, list_url("completion"), q="answer")
    oldest = rows[0].conversation
    assert titles(staff_client, q=oldest.public_id) == {"about 0"}
    until = {"updated_at__lt": str(rows[1].conversation.updated_at)}
    assert titles(staff_client, q="an answer", **until) == {"about 0"}


def test_filter_by_status_looks_at_the_newest_such_requests_of_the_user(
    staff_client, alice, bob, history, monkeypatch
) -> None:
    for user in (alice, bob, bob):
        pk = history.start(user, [("user", f"of {user.username}")])
        history.finish(pk, status="failed")
    monkeypatch.setattr(selectors, "DEEPEST", 2)
    assert titles(staff_client, status="failed") == {"of bob"}
    assert titles(staff_client, status="failed", user="alice") == {"of alice"}
    told = "the status is looked for in the newest 2 such requests only"
    assert told in body(staff_client, list_url("conversation"), status="failed")
    for asked in ({"status": "failed", "user": "bob"}, {"status": "completed"}, {}):
        assert told not in body(staff_client, list_url("conversation"), **asked)


def test_a_model_that_is_no_choice_any_more_is_found_by_the_address(
    staff_client, alice, history, monkeypatch
) -> None:
    history.say(alice, [U1], "yes", model="old")
    history.say(alice, [("user", "newer")], "yes")
    monkeypatch.setattr(selectors, "recent_models", lambda: ["tiny"])
    assert titles(staff_client, model="old") == {U1[1]}


def test_lists_ask_a_fixed_number_of_queries(
    staff_client, alice, history, django_assert_max_num_queries
) -> None:
    key, _ = accounts.key_create(user=alice)
    for index in range(60):
        history.say(alice, [("user", str(index))], "yes", api_key_id=key.pk)
    with django_assert_max_num_queries(13):
        text = body(staff_client, list_url("conversation"))
    assert text.count("7 + 5") == 50
    with django_assert_max_num_queries(9):
        body(staff_client, list_url("completion"))


def test_transcript_asks_a_fixed_number_of_queries(
    staff_client, alice, history, django_assert_max_num_queries
) -> None:
    messages = []
    for turn in range(15):
        messages.append(("user", str(turn)))
        row = history.say(alice, messages, f"answer {turn}", f"other {turn}")
        messages.append(("assistant", f"answer {turn}"))
    with django_assert_max_num_queries(15):
        text = body(staff_client, page_url(row.conversation))
    assert text.count("history-text") == 45


def test_thousand_messages_deep_transcript_is_read(alice, history) -> None:
    history.say(alice, [("user", str(i)) for i in range(1500)], "the end")
    assert len(selectors.transcript(Conversation.objects.get())) == 1501


def test_counts_stop_at_ten_thousand(staff_client, alice, history, monkeypatch) -> None:
    for index in range(3):
        history.say(alice, [("user", str(index))], "yes")
    monkeypatch.setattr(ShallowPaginator, "deepest", 2)
    assert ShallowPaginator(Conversation.objects.order_by("pk"), 1).count == 2
    told = "The count and the pages end at 2."
    for model in ("conversation", "completion"):
        assert told in body(staff_client, list_url(model))
        assert told not in body(staff_client, list_url(model), q="no such words")


# ---- changing nothing ----------------------------------------------------------------------------


def snapshot() -> list:  # type: ignore[type-arg]
    tables = [Conversation, Message, Completion, ServerProcess]
    return [list(model.objects.order_by("pk").values()) for model in tables]


def test_superuser_changes_nothing(staff_client, alice, history) -> None:
    process = process_register(uuid=uuid4(), host="h/b", pid=1, lock_path="")
    row = history.say(alice, [U1], "hi there", process_id=process)
    rows = [row, row.conversation, row.process]
    before = snapshot()
    for model in LISTS:
        add = reverse(f"admin:conversations_{model}_add")
        assert staff_client.get(add).status_code == 403
        assert staff_client.post(add, {"title": "x"}).status_code == 403
        delete = {"action": "delete_selected", "_selected_action": [1], "post": "yes"}
        staff_client.post(list_url(model), delete)
        assert "delete_selected" not in body(staff_client, list_url(model))
    for obj in rows:
        assert staff_client.post(page_url(obj), {"title": "x", "host": "x"}).status_code == 403
        delete = reverse(f"admin:conversations_{obj._meta.model_name}_delete", args=[obj.pk])
        assert staff_client.post(delete, {"post": "yes"}).status_code == 403
        assert 'type="submit" value="Save"' not in body(staff_client, page_url(obj))
    assert snapshot() == before


def test_staff_without_the_right_to_view_see_nothing(client, alice, history) -> None:
    row = history.say(alice, [U1], "hi there")
    clerk = User.objects.create_user("clerk", is_staff=True)
    client.force_login(clerk)
    for url in (list_url("conversation"), page_url(row.conversation), page_url(row)):
        assert client.get(url).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_conversation"))
    assert "hi there" not in body(client, page_url(row.conversation))
    assert client.get(page_url(row)).status_code == 403


def test_absent_row_leads_back(staff_client) -> None:
    for model in ("conversation", "completion"):
        for pk in ("999", "x", "9" * 40):
            url = reverse(f"admin:conversations_{model}_change", args=[pk])
            assert staff_client.get(url).status_code == 302


def test_json_is_stored_as_readable_text(alice, history) -> None:
    # The search depends on it.
    history.say(alice, [("user", "北京")], "yes")
    with connection.cursor() as cursor:
        cursor.execute("SELECT CAST(content AS text) FROM conversations_message WHERE depth = 0")
        assert cursor.fetchone()[0] == '"北京"'
