"""A conversation or a request of one's own as a page: its versions, its ends, its length."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from conversations.models import Completion, Conversation
from conversations.own import versions
from conversations.own.blocks import Block, blocks
from conversations.services import CompletionEnd, completion_finish
from conversations.tree.paths import messages_in_order, path_of
from tests.accounts.pages import signed_in

HARM = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'></textarea><b>\u202e"
U1, A1, U2 = ("user", "Where are zebras?"), ("assistant", "In the south."), ("user", "And lions?")


@pytest.fixture
def reader(alice):
    return signed_in(alice)


def url(completion: Completion) -> str:
    return f"/history/{completion.conversation.public_id}/"


def told(answer) -> list[tuple[str, int, int]]:
    """(text, version, versions) of each message on the page."""
    return [(step.text, step.version, step.versions) for step in answer.context["way"].steps]


def test_a_conversation_is_read_from_its_first_message_to_its_newest(
    reader, alice, history
) -> None:
    row = history.say(alice, [("system", "Be brief."), U1], A1[1])
    history.say(alice, [("system", "Be brief."), U1, A1, U2], "In the east.")
    answer = reader.get(url(row))
    assert [text for text, *_ in told(answer)] == [
        "Be brief.",
        "Where are zebras?",
        "In the south.",
        "And lions?",
        "In the east.",
    ]
    body = answer.content.decode()
    assert "7 tokens in, 5 out" in body
    assert "0.34 s" in body
    assert "stop" in body
    assert row.conversation.public_id in body
    assert body.count("data-copy=") >= 5


def test_versions_lead_to_each_other_and_to_what_followed_them(reader, alice, history) -> None:
    row = history.say(alice, [U1], A1[1], "Up north.")
    history.say(alice, [U1, A1, U2], "In the east.")
    history.say(alice, [U1, A1, U2], "In the west.")
    history.say(alice, [U1, A1, ("user", "And bears?")], "In the woods.")
    newest = reader.get(url(row))
    assert told(newest) == [
        ("Where are zebras?", 1, 1),
        ("In the south.", 1, 2),
        ("And bears?", 2, 2),
        ("In the woods.", 1, 1),
    ]
    bears = newest.context["way"].steps[2]
    assert f'href="?at={bears.before}#{bears.before}"' in newest.content.decode()
    lions = reader.get(url(row), {"at": bears.before})
    assert told(lions)[2:] == [("And lions?", 1, 2), ("In the west.", 2, 2)]
    east = lions.context["way"].steps[3].before
    assert told(reader.get(url(row), {"at": east}))[3] == ("In the east.", 1, 2)
    north = newest.context["way"].steps[1].after
    assert told(reader.get(url(row), {"at": north}))[1:] == [("Up north.", 2, 2)]


def test_the_page_ends_with_what_a_chat_by_id_goes_on_from_and_what_waits_below_it(
    reader, alice, history
) -> None:
    row = history.say(alice, [U1], A1[1])
    history.say(alice, [U1, A1, U2], "In the east.")
    history.finish(history.start(alice, [U1, A1, ("user", "And bears?")]), status="failed")
    shown = told(reader.get(url(row)))
    said = [m.content for m in messages_in_order(path_of(row.conversation_id))]
    assert [text for text, *_ in shown] == said
    assert shown[2:] == [("And lions?", 1, 2), ("In the east.", 1, 1)]
    whole = [U1, A1, U2, ("assistant", "In the east.")]
    history.start(alice, [*whole, ("user", "Since when?"), ("user", "Say!")])
    answer = reader.get(url(row))
    assert [text for text, *_ in told(answer)] == [*said, "Since when?", "Say!"]
    assert "No answer yet" in answer.content.decode()


def test_partial_and_missing_answers_say_why(reader, alice, history) -> None:
    pk = history.start(alice, [U1])
    history.finish(pk, "In the s", status="cancelled")
    row = Completion.objects.get(pk=pk)
    failed = history.start(alice, [U1, ("assistant", "In the s"), U2])
    history.finish(failed, status="failed", error="The engine <ended>.")
    body = reader.get(url(row)).content.decode()
    assert "Cancelled" in body
    assert "The client left before the end" in body
    assert "No answer</strong>" in body
    assert "The engine &lt;ended&gt;." in body
    running = history.start(alice, [("user", "Slow?")])
    body = reader.get(url(Completion.objects.get(pk=running))).content.decode()
    assert "No answer yet" in body
    assert "Running" in body
    cut = history.say(alice, [("user", "Long?")], "A")
    cut.outputs.update(finish_reason="length")
    assert "Cut at the length limit" in reader.get(url(cut)).content.decode()


def test_hostile_text_stays_text_wherever_it_is_shown(reader, alice, history) -> None:
    said = history.say(
        alice,
        [("user", HARM, "<i>name")],
        f"{HARM}\n```{HARM.split()[0]}\n{HARM}\n```",
        model="<b>m",
    )
    Conversation.objects.update(title=HARM)
    written = history.start(alice, prompt=[HARM], parameters={"<b>p": "<b>v"})
    history.finish(written, HARM, status="failed", error="<b>error")
    Completion.objects.filter(pk=written).update(metadata={"<b>k": "<b>w"})
    one = Completion.objects.get(pk=written).public_id
    conversation = url(said)
    for path in (
        "/history/",
        "/history/?q=script",
        "/history/requests/",
        conversation,
        f"{conversation}delete/",
        f"/history/requests/{one}/",
        f"/history/requests/{one}/delete/",
        "/usage/",
    ):
        body = reader.get(path).content.decode()
        for markup in ("<script>alert", "<img", "<b>", "<i>name", "</textarea><b>"):
            assert markup not in body, path


def test_a_message_by_itself_is_plain_text(reader, alice, history) -> None:
    row = history.say(alice, [U1], HARM)
    message = row.outputs.get()
    answer = reader.get(f"{url(row)}messages/{message.public_id}/")
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer.content.decode() == HARM
    other = history.say(alice, [U1], "x")
    assert reader.get(f"{url(other)}messages/{message.public_id}/").status_code == 404


def test_very_long_messages_are_folded_and_cut_with_a_way_to_the_rest(
    reader, alice, history
) -> None:
    row = history.say(alice, [U1], "word " * 1000)
    body = reader.get(url(row)).content.decode()
    assert "Show all of it" in body
    assert "The whole text" not in body
    row = history.say(alice, [U1], "x" * (versions.MOST_OF_ONE + 5))
    answer = reader.get(url(row))
    assert "The first 40,000 of 40,005 characters." in answer.content.decode()
    assert len(answer.context["way"].steps[1].text) == versions.MOST_OF_ONE
    whole = reader.get(f"{url(row)}messages/{row.outputs.get().public_id}/")
    assert len(whole.content) == versions.MOST_OF_ONE + 5


def test_a_long_conversation_comes_in_portions_from_its_end(
    reader, alice, history, monkeypatch
) -> None:
    monkeypatch.setattr(versions, "MOST_MESSAGES", 4)
    turns = [(("user", "assistant")[n % 2], f"turn {n}") for n in range(10)]
    row = history.say(alice, turns, "turn 10")
    seen: list[str] = []
    answer = reader.get(url(row))
    assert answer.context["way"].is_end
    while True:
        way = answer.context["way"]
        seen = [step.text for step in way.steps] + seen
        if not way.earlier:
            break
        assert f"{way.earlier} earlier message" in answer.content.decode()
        answer = reader.get(url(row), {"at": way.at, "before": way.steps[0].message.public_id})
        assert "To the end of the conversation" in answer.content.decode()
    assert seen == [f"turn {n}" for n in range(11)]


def test_a_portion_is_bounded_by_its_characters_too(reader, alice, history, monkeypatch) -> None:
    monkeypatch.setattr(versions, "MOST_CHARACTERS", 1000)
    row = history.say(alice, [("user", "a" * 600), ("assistant", "b" * 600)], "c" * 600)
    assert [text[0] for text, *_ in told(reader.get(url(row)))] == ["c"]


def test_thousands_of_messages_need_no_recursion(reader, alice, history) -> None:
    turns = [(("user", "assistant")[n % 2], str(n)) for n in range(3001)]
    row = history.say(alice, turns, "the end")
    answer = reader.get(url(row))
    assert answer.context["way"].earlier == 3002 - versions.MOST_MESSAGES
    assert told(answer)[-1][0] == "the end"


def test_a_transcript_takes_as_many_queries_however_long_it_is(reader, alice, history) -> None:
    short = history.say(alice, [U1], A1[1])
    turns = [(("user", "assistant")[n % 2], str(n)) for n in range(41)]
    long = history.say(alice, turns, "the end", "another")
    paths = url(short), url(long)
    reader.get(paths[0])
    with CaptureQueriesContext(connection) as few:
        reader.get(paths[0])
    with CaptureQueriesContext(connection) as many:
        reader.get(paths[1])
    assert len(few) == len(many) <= 14


def test_unknown_messages_and_those_of_another_way_are_404(reader, alice, history) -> None:
    row = history.say(alice, [U1], "one", "two")
    one, two = row.outputs.order_by("choice_index")
    assert reader.get(url(row), {"at": "msg_unheard"}).status_code == 404
    assert reader.get(url(row), {"at": one.public_id, "before": two.public_id}).status_code == 404
    empty = Conversation.objects.create(user=alice)
    assert reader.get(f"/history/{empty.public_id}/").status_code == 200
    assert reader.get(f"/history/{empty.public_id}/?at=msg_x").status_code == 404


def test_renaming_keeps_the_place_in_the_list_and_says_what_is_wrong(
    reader, alice, history
) -> None:
    row = history.say(alice, [U1], A1[1])
    before = row.conversation.updated_at
    answer = reader.post(
        f"{url(row)}rename/", {"title": " Zebras\tand <b>\u2028lions "}, follow=True
    )
    row.conversation.refresh_from_db()
    assert row.conversation.title == "Zebras and <b> lions"
    assert row.conversation.updated_at == before
    assert "Zebras and &lt;b&gt; lions" in answer.content.decode()
    for wrong in ("", "x" * 201, "a\0b"):
        answer = reader.post(f"{url(row)}rename/", {"title": wrong}, follow=True)
        assert 'data-tone="error"' in answer.content.decode()
        row.conversation.refresh_from_db()
        assert row.conversation.title == "Zebras and <b> lions"
    assert reader.get(f"{url(row)}rename/").status_code == 405


def test_a_completion_and_an_embedding_have_a_page_and_a_chat_has_its_place(
    reader, alice, history
) -> None:
    written = history.start(alice, prompt=["Once upon", [1, 2]])
    history.finish(written, "a time", "a place", status="interrupted")
    body = reader.get(f"/history/requests/{Completion.objects.get(pk=written).public_id}/")
    body = body.content.decode()
    assert "Once upon" in body
    assert "[1,2]" in body
    assert "a time" in body
    assert "a place" in body
    assert "Interrupted" in body
    assert "The server ended in the middle" in body
    assert "temperature" in body
    embedded = history.start(alice, kind="embedding", prompt=[f"text {n}" for n in range(60)])
    completion_finish(
        embedded,
        CompletionEnd(Completion.Status.COMPLETED, (), 60, 0, None, 5),
    )
    body = reader.get(f"/history/requests/{Completion.objects.get(pk=embedded).public_id}/")
    assert "text 49" in body.content.decode()
    assert "10 more" in body.content.decode()
    chat = history.say(alice, [U1], A1[1])
    answer = reader.get(f"/history/requests/{chat.public_id}/")
    message = chat.outputs.get().public_id
    assert answer["Location"] == f"{url(chat)}?at={message}#{message}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [Block("plain")]),
        ("a\n```py\nx = 1\n\n```\nb", [Block("a"), Block("x = 1\n", True, "py"), Block("b")]),
        ("~~~\n```\n~~~", [Block("```", True)]),
        ("````md\n```\nx\n```\n````", [Block("```\nx\n```", True, "md")]),
        ("```py\nnever closed", [Block("never closed", True, "py")]),
        ("``` a `b` c", [Block("``` a `b` c")]),
        ("", []),
    ],
)
def test_code_between_fences_is_set_apart(text, expected) -> None:
    assert blocks(text) == expected
