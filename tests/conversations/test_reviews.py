"""Staff judge conversations: form, queue, filters, and two at once."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from conversations import reviews
from conversations.models import Completion, Conversation, Label, Review

pytestmark = pytest.mark.django_db

LIST = "/admin/conversations/conversation/"
UNREVIEWED = f"{LIST}unreviewed/"


@pytest.fixture
def reviewer(client):  # type: ignore[no-untyped-def]
    user = User.objects.create_user("rita", is_staff=True)
    user.groups.add(Group.objects.get(name="reviewer"))
    client.force_login(user)
    return client


@pytest.fixture
def talk(alice, history):  # type: ignore[no-untyped-def]
    return history.say(alice, [("user", "hello")], "hi there").conversation


def page_of(conversation: Conversation) -> str:
    return reverse("admin:conversations_conversation_change", args=[conversation.pk])


def form_of(client, conversation: Conversation, **fields: object) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """What a browser would send from the page as it is now."""
    form = client.get(page_of(conversation)).context["form"]
    return {**{name: form.initial[name] for name in ("version", "seen")}, **fields}


def send(client, conversation: Conversation, data: dict[str, object]):  # type: ignore[no-untyped-def]
    return client.post(reverse("admin:conversations_review", args=[conversation.pk]), data)


def judge(client, conversation: Conversation, **fields: object):  # type: ignore[no-untyped-def]
    return send(client, conversation, form_of(client, conversation, **fields))


def ages(*conversations: Conversation) -> None:
    """The first is the newest, each an hour older than the one before."""
    for hours, conversation in enumerate(conversations):
        at = timezone.now() - timedelta(hours=hours + 1)
        Conversation.objects.filter(pk=conversation.pk).update(updated_at=at)


def test_a_review_is_saved_and_shown_again(reviewer, talk) -> None:
    Label.objects.create(name="good")
    response = judge(
        reviewer, talk, score="4", labels=["good"], new_labels="Off topic, GOOD", notes="So so."
    )
    assert response["Location"] == page_of(talk)
    review = Review.objects.get()
    assert (review.score, review.notes, review.reviewer.username) == (4, "So so.", "rita")
    assert {label.name for label in review.labels.all()} == {"good", "Off topic"}
    talk.refresh_from_db()
    assert talk.reviewed_at is not None
    body = reviewer.get(page_of(talk)).content.decode()
    assert "So so." in body
    assert 'value="4"' in body
    assert body.count("checked") == 3  # a score and two labels


def test_save_and_next_leads_down_the_queue_and_ends(reviewer, alice, history) -> None:
    first, second, third = (
        history.say(alice, [("user", text)], "yes").conversation for text in ("a", "b", "c")
    )
    ages(first, second, third)
    assert reviewer.get(UNREVIEWED)["Location"] == page_of(first)
    assert reviewer.get(UNREVIEWED, {"after": first.pk})["Location"] == page_of(second)
    assert judge(reviewer, second, next="")["Location"] == page_of(third)
    assert judge(reviewer, third, next="")["Location"] == page_of(first)
    response = judge(reviewer, first, next="")
    assert response["Location"] == LIST
    assert "Nothing else is unreviewed" in reviewer.get(LIST).content.decode()
    assert reviewer.get(UNREVIEWED, {"after": "x" * 30})["Location"] == LIST


def test_what_is_being_answered_is_not_in_the_queue(reviewer, alice, history) -> None:
    history.start(alice, [("user", "not yet")])
    assert reviewer.get(UNREVIEWED)["Location"] == LIST


def test_a_conversation_that_goes_on_is_unreviewed_again(reviewer, alice, talk, history) -> None:
    judge(reviewer, talk, score="5")
    assert reviewer.get(UNREVIEWED)["Location"] == LIST
    turns = [("user", "hello"), ("assistant", "hi there"), ("user", "and now?")]
    assert history.say(alice, turns, "later").conversation == talk
    talk.refresh_from_db()
    assert talk.reviewed_at is None
    assert Review.objects.get().score == 5
    assert reviewer.get(UNREVIEWED)["Location"] == page_of(talk)
    assert "gone on" in reviewer.get(LIST).content.decode()


def test_a_review_of_what_has_gone_on_meanwhile_leaves_it_unreviewed(
    reviewer, alice, talk, history
) -> None:
    data = form_of(reviewer, talk, score="5")
    turns = [("user", "hello"), ("assistant", "hi there"), ("user", "and now?")]
    history.say(alice, turns, "later")
    response = send(reviewer, talk, data)
    assert "has gone on" in reviewer.get(response["Location"]).content.decode()
    talk.refresh_from_db()
    assert (talk.reviewed_at, Review.objects.get().score) == (None, 5)


def test_the_later_of_two_reviewers_is_told_and_overwrites_nothing_unseen(
    reviewer, talk, staff_client
) -> None:
    mine = form_of(staff_client, talk, score="1", notes="mine")
    other = User.objects.create_user("otto")
    reviews.review_save(
        talk.pk,
        reviews.Judgement(5, ["theirs"], "their notes"),
        reviewer=other,
        version="",
        seen_at=talk.updated_at,
    )
    response = send(staff_client, talk, mine)
    body = response.content.decode()
    assert response.status_code == 409
    assert "otto" in body
    assert "their notes" in body
    assert ">mine</textarea>" in body.replace("\n", "")
    assert Review.objects.get().score == 5

    again = {**mine, "version": response.context["form"]["version"].value()}
    assert send(staff_client, talk, again).status_code == 302
    assert (Review.objects.get().score, Review.objects.get().reviewer.username) == (1, "staff")


@pytest.mark.django_db(transaction=True)
def test_of_several_who_save_at_once_one_does(talk, at_once) -> None:
    people = [User.objects.create_user(f"r{index}") for index in range(4)]

    def save(index: int) -> bool:
        judgement = reviews.Judgement(index + 1, ["same"], "")
        try:
            return reviews.review_save(
                talk.pk, judgement, reviewer=people[index], version="", seen_at=talk.updated_at
            )
        except reviews.ReviewChanged:
            return False

    assert sorted(at_once(4, save)) == [False, False, False, True]
    assert Review.objects.get().labels.get().name == "same"


@pytest.mark.parametrize(
    "fields",
    [
        {"score": "6"},
        {"score": "x"},
        {"labels": ["unknown"]},
        {"new_labels": "x" * 51},
        {"new_labels": ",".join("abcdefghijk")},
        {"notes": "x" * 10_001},
        {"notes": "\0"},
        {"seen": "yesterday"},
        {"seen": "2026-02-30T00:00"},
    ],
)
def test_a_form_with_a_mistake_says_so_and_saves_nothing(reviewer, talk, fields) -> None:
    response = judge(reviewer, talk, **fields)
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    assert not Review.objects.exists()


def test_reviewing_wants_the_rights_to_read_and_to_review(client, talk) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.groups.add(Group.objects.get(name="auditor"))
    client.force_login(clerk)
    data = {"version": "", "seen": talk.updated_at.isoformat(), "score": "1"}
    assert send(client, talk, data).status_code == 403
    assert client.get(UNREVIEWED).status_code == 403
    assert not Review.objects.exists()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"reviewed": "no"}, {"plain"}),
        ({"reviewed": "yes"}, {"bad", "fine"}),
        ({"score": "1"}, {"bad"}),
        ({"score": "none"}, {"fine"}),
        ({"score": "12"}, set()),
        ({"label": "spam"}, {"bad"}),
        ({"label": "spam", "score": "5"}, set()),
        ({"reviewer": "RITA"}, {"bad", "fine"}),
        ({"reviewer": "nobody"}, set()),
    ],
)
def test_lists_are_filtered_by_review(reviewer, alice, history, query, found) -> None:
    bad, fine, _ = (
        history.say(alice, [("user", text)], "yes").conversation
        for text in ("bad", "fine", "plain")
    )
    judge(reviewer, bad, score="1", new_labels="spam")
    judge(reviewer, fine)
    rows = reviewer.get(LIST, query).context["cl"].result_list
    assert {row.title for row in rows} == found


def test_a_list_with_reviews_asks_a_fixed_number_of_queries(reviewer, alice, history) -> None:
    def asked() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            reviewer.get(LIST)
        return len(queries)

    def reviewed(count: int) -> None:
        for index in range(count):
            talk = history.say(alice, [("user", f"{count} {index}")], "yes").conversation
            judge(reviewer, talk, score="3", new_labels="one, two")

    reviewed(2)
    few = asked()
    reviewed(12)
    assert asked() == few <= 20


def test_hostile_reviews_are_escaped(reviewer, talk) -> None:
    hostile = "<script>alert(1)</script>"
    judge(reviewer, talk, notes=hostile, new_labels=hostile)
    for url in (page_of(talk), LIST, "/admin/conversations/label/"):
        body = reviewer.get(url).content.decode()
        assert "<script>alert" not in body
        assert "&lt;script&gt;alert" in body


def test_a_label_renamed_has_its_new_name_everywhere(reviewer, talk) -> None:
    judge(reviewer, talk, new_labels="spam")
    label = Label.objects.get()
    reviewer.post(reverse("admin:conversations_label_change", args=[label.pk]), {"name": "junk"})
    assert "junk" in reviewer.get(LIST).content.decode()
    assert Completion.objects.count() == 1
