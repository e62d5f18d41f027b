"""Conversations by id: their path, and a tree that stays right when items come and go."""

import random
import threading
import time
from importlib import import_module

import pytest
from django.apps import apps as django_apps
from django.db import connection, transaction

from conversations.errors import AnswerNotKept, ConversationBusy, ConversationChanged, NotFound
from conversations.idempotency import KeyUse, answered_before
from conversations.models import Completion, Conversation, IdempotencyKey, Message
from conversations.services import NewMessage
from conversations.tree import chain, paths
from conversations.tree.items import conversation_create, item_delete, items_append
from conversations.tree.paths import history_of, path_of
from tests.environment import ON_POSTGRES

U1, U2, U3 = ("user", "one"), ("user", "two"), ("user", "three")


def said(*messages):
    return [NewMessage(role, content) for role, content in messages]


def texts(conversation):
    return [m.content for m in paths.messages_in_order(path_of(conversation.pk))]


def make(user, *messages):
    return conversation_create(
        user_id=user.pk, api_key_id=None, metadata={}, messages=said(*messages)
    )


def check_tree(conversation):
    """Depths and hashes are those that the messages' places ask for."""
    rows = {m.pk: m for m in conversation.messages.all()}
    for message in rows.values():
        parent = rows.get(message.parent_id)
        assert message.parent_id is None or parent is not None
        assert message.depth == (parent.depth + 1 if parent else 0)
        above = parent.chain_hash if parent else chain.root(conversation.user_id)
        assert message.chain_hash == chain.link(above, message.role, message.name, message.content)
    heads = conversation.completions.exclude(head=None).values_list("head", flat=True)
    assert set(heads) <= set(rows)


def continued(history, user, conversation, messages, *answers, **fields):
    leaf, _ = history_of(conversation.pk, user.pk)
    return history.say(user, messages, *answers, below=leaf, **fields)


# ---- the path ------------------------------------------------------------------------------------


def test_a_chat_goes_on_below_the_end_of_its_conversation(alice, history) -> None:
    conversation = make(alice, ("system", "Be kind."))
    for number in range(3):
        row = continued(history, alice, conversation, [("user", f"q{number}")], f"a{number}")
        assert row.conversation_id == conversation.pk
    assert texts(conversation) == ["Be kind.", "q0", "a0", "q1", "a1", "q2", "a2"]
    check_tree(conversation)


def test_the_first_choice_and_the_newest_branch_are_the_path(alice, history) -> None:
    first = history.say(alice, [U1], "a0", "a1")
    conversation = first.conversation
    assert texts(conversation) == ["one", "a0"]
    # The client went on below the second choice: that is newer.
    history.say(alice, [U1, ("assistant", "a1"), U2], "b")
    assert texts(conversation) == ["one", "a1", "two", "b"]
    # It asks its second question anew.
    history.say(alice, [U1, ("assistant", "a1"), U3], "c")
    assert texts(conversation) == ["one", "a1", "three", "c"]


def test_two_at_once_are_siblings_and_neither_sees_the_others_half(alice, history) -> None:
    conversation = history.say(alice, [U1], "a").conversation
    leaf, _ = history_of(conversation.pk, alice.pk)
    running = history.start(alice, [U2, ("user", "and more")], below=leaf)
    assert texts(conversation) == ["one", "a"], "what is not answered yet is no history"
    continued(history, alice, conversation, [U3], "c")
    assert texts(conversation) == ["one", "a", "three", "c"]
    history.finish(running, "b")
    assert texts(conversation) == ["one", "a", "two", "and more", "b"]
    check_tree(conversation)


@pytest.mark.parametrize("status", ["cancelled", "failed", "interrupted"])
def test_a_question_without_an_answer_is_not_asked_twice_when_it_is_sent_again(
    alice, history, status
) -> None:
    conversation = history.say(alice, [U1], "a").conversation
    leaf, _ = history_of(conversation.pk, alice.pk)
    history.finish(history.start(alice, [U2], below=leaf), "", status=status)
    assert texts(conversation) == ["one", "a"]
    continued(history, alice, conversation, [U2], "b")
    assert texts(conversation) == ["one", "a", "two", "b"]
    assert conversation.messages.count() == 4


@pytest.mark.parametrize("status", ["cancelled", "failed", "interrupted"])
def test_a_question_whose_partial_answer_was_deleted_stays(alice, history, status) -> None:
    pk = history.start(alice, [U1])
    history.finish(pk, "in p", status=status)
    conversation = Conversation.objects.get()
    item_delete(conversation, Message.objects.get(completion=pk).public_id)
    assert texts(conversation) == ["one"]


def test_requests_of_older_databases_are_taken_for_answered_if_they_were(alice, history) -> None:
    whole = history.say(alice, [U1], "a")
    item_delete(whole.conversation, whole.outputs.get().public_id)
    for answer, status in (("in p", "cancelled"), ("", "failed")):
        history.finish(history.start(alice, [U1]), answer, status=status)
    history.start(alice, [U1])
    kept = list(Completion.objects.order_by("pk").values_list("was_answered", flat=True))
    assert kept == [True, True, False, False]
    Completion.objects.update(was_answered=True)
    migration = import_module("conversations.migrations.0004_was_answered")
    migration.mark_unanswered(django_apps, None)
    found = Completion.objects.order_by("pk").values_list("was_answered", flat=True)
    assert list(found) == kept


def test_of_several_choices_the_first_that_is_left_counts(alice, history) -> None:
    row = history.say(alice, [U1], "a0", "a1", "a2")
    for left in ("a1", "a2"):
        item_delete(row.conversation, row.outputs.earliest("choice_index").public_id)
        assert texts(row.conversation) == ["one", left]


def test_an_end_that_was_deleted_or_moved_is_not_continued(alice, history) -> None:
    conversation = history.say(alice, [U1], "a").conversation
    leaf, _ = history_of(conversation.pk, alice.pk)
    item_delete(conversation, conversation.messages.get(depth=0).public_id)
    with pytest.raises(ConversationChanged):
        history.start(alice, [U2], below=leaf)
    assert Completion.objects.count() == 1
    # A stateless call that repeats what is no longer there begins a conversation of its own.
    other = history.say(alice, [U1, ("assistant", "a"), U2], "b").conversation
    assert other.pk != conversation.pk


# ---- a later end ---------------------------------------------------------------------------------


def swept(history, user, *texts) -> tuple[int, Conversation]:
    """A chat whose process was taken for dead in the middle of its answer."""
    pk = history.start(user, [U1])
    history.finish(pk, *texts, status="interrupted")
    return pk, Completion.objects.get(pk=pk).conversation


def test_what_was_said_below_a_partial_answer_stays_below_the_whole_one(alice, history) -> None:
    pk, conversation = swept(history, alice, "hi th")
    continued(history, alice, conversation, [U2], "b")
    history.finish(pk, "hi there")
    assert texts(conversation) == ["one", "hi there", "two", "b"]
    check_tree(conversation)
    # Who repeats the history is found by the whole answer, however deep.
    whole = [U1, ("assistant", "hi there"), U2, ("assistant", "b"), U3]
    assert history.say(alice, whole, "c").conversation_id == conversation.pk


def test_what_runs_below_a_partial_answer_ends_below_the_whole_one(alice, history) -> None:
    pk, conversation = swept(history, alice, "hi th")
    leaf, _ = history_of(conversation.pk, alice.pk)
    running = history.start(alice, [U2], below=leaf)
    history.finish(pk, "hi there")
    history.finish(running, "b")
    assert texts(conversation) == ["one", "hi there", "two", "b"]
    check_tree(conversation)


def test_choices_that_become_equal_keep_what_was_said_below_each(alice, history) -> None:
    pk, conversation = swept(history, alice, "sa", "same")
    for answer in Message.objects.filter(completion=pk):
        leaf = paths.Leaf(conversation.pk, answer.pk, answer.depth, answer.chain_hash)
        history.say(alice, [U2], f"below {answer.content}", below=leaf)
    history.finish(pk, "same", "same")
    check_tree(conversation)
    question = conversation.messages.get(content="two")
    assert {m.content for m in question.children.all()} == {"below sa", "below same"}


def test_an_answer_whose_question_was_deleted_becomes_whole_too(alice, history) -> None:
    pk, conversation = swept(history, alice, "hi th")
    item_delete(conversation, conversation.messages.get(content="one").public_id)
    history.finish(pk, "hi there")
    assert texts(conversation) == ["hi there"]
    check_tree(conversation)


def test_a_deleted_answer_does_not_come_back_by_a_later_end(alice, history) -> None:
    pk = history.start(alice, [U1], idempotency=KeyUse.of(b"key", b"request"))
    history.finish(pk, "my sec", status="interrupted")
    conversation = Conversation.objects.get()
    item_delete(conversation, Message.objects.get(completion=pk).public_id)
    history.finish(pk, "my secret", answer='"my secret"')
    assert texts(conversation) == ["one"]
    assert Completion.objects.get(pk=pk).status == "completed"
    assert IdempotencyKey.objects.get().answer == ""


@pytest.mark.skipif(not ON_POSTGRES, reason="SQLite has one writer: nobody waits for a row")
@pytest.mark.django_db(transaction=True)
def test_a_later_end_and_a_deletion_at_once_do_not_wait_for_each_other(
    alice, history, at_once
) -> None:
    """The deletion finds the first request locked, and waits. A second one is made, answers the
    same question and is swept; its later end and the deletion then meet at the conversation."""
    first = history.say(alice, [U1], "a")
    conversation = first.conversation
    history.say(alice, [U1, ("assistant", "a"), U2], "b")
    question = conversation.messages.get(content="two")
    swept_pk, has_swept, deletes, ends = [], *(threading.Event() for _ in range(3))

    def until_waiting(count: int) -> None:
        """Until so many sessions wait for a row."""
        waiting = "wait_event_type = 'Lock' AND datname = current_database()"
        give_up = time.monotonic() + 60
        with connection.cursor() as cursor:
            while time.monotonic() < give_up:
                cursor.execute("SELECT pg_stat_clear_snapshot()")
                cursor.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}")
                if cursor.fetchone()[0] >= count:
                    return
                time.sleep(0.01)
        raise AssertionError(f"there are no {count} who wait")

    def hold_the_first() -> None:
        with transaction.atomic():
            Completion.objects.select_for_update().get(pk=first.pk)
            deletes.set()
            assert has_swept.wait(60)

    def hold_the_conversation() -> None:
        assert deletes.wait(60)
        until_waiting(1)
        pk = history.start(alice, [U1, ("assistant", "a"), U2])
        history.finish(pk, "par", status="interrupted")
        swept_pk.append(pk)
        with transaction.atomic():
            Conversation.objects.select_for_update().get(pk=conversation.pk)
            has_swept.set()
            until_waiting(1)  # the deletion, for the conversation
            ends.set()
            until_waiting(2)

    def delete() -> None:
        assert deletes.wait(60)
        item_delete(conversation, question.public_id)

    def end() -> None:
        assert ends.wait(60)
        history.finish(swept_pk[0], "partly")

    steps = (hold_the_first, hold_the_conversation, delete, end)
    at_once(len(steps), lambda index: steps[index]())
    check_tree(conversation)
    assert {m.content for m in conversation.messages.all()} == {"one", "a", "b", "partly"}
    connection.check_constraints()


# ---- adding --------------------------------------------------------------------------------------


def test_items_are_added_at_the_end_and_name_an_unnamed_conversation(alice) -> None:
    conversation = make(alice)
    assert texts(conversation) == []
    added = items_append(conversation, said(("system", "Be kind."), U1))
    assert [m.content for m in added] == ["Be kind.", "one"]
    items_append(conversation, said(U2))
    assert texts(conversation) == ["Be kind.", "one", "two"]
    assert Conversation.objects.get().title == "one"
    check_tree(conversation)


def test_a_repeated_message_is_an_item_of_its_own(alice) -> None:
    conversation = make(alice, U1)
    items_append(conversation, said(U1, U1))
    items_append(conversation, said(U1))
    assert texts(conversation) == ["one"] * 4
    check_tree(conversation)


def test_an_item_that_stands_below_an_equal_answer_is_added_all_the_same(alice, history) -> None:
    conversation = history.say(alice, [U1], "a").conversation
    again = [U1, ("assistant", "a"), U2]
    history.say(alice, again, "same")
    history.say(alice, [*again, ("assistant", "same"), U3], "deep")
    history.say(alice, again, "same")  # regenerated: an equal answer, and the newest
    assert texts(conversation) == ["one", "a", "two", "same"]
    items_append(conversation, said(U3))
    assert texts(conversation) == ["one", "a", "two", "same", "three"]
    assert conversation.messages.filter(content="deep").exists()
    check_tree(conversation)


def test_while_a_request_runs_items_are_neither_added_nor_deleted(alice, history) -> None:
    pk = history.start(alice, [U1])
    conversation = Completion.objects.get(pk=pk).conversation
    with pytest.raises(ConversationBusy):
        items_append(conversation, said(U2))
    with pytest.raises(ConversationBusy):
        item_delete(conversation, conversation.messages.get().public_id)
    history.finish(pk, "a")
    items_append(conversation, said(U2))
    assert texts(conversation) == ["one", "a", "two"]


# ---- deleting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_what_follows_a_deleted_item_moves_up(alice, history, position) -> None:
    history.say(alice, [U1], "a")
    row = history.say(alice, [U1, ("assistant", "a"), U2], "b")
    conversation = row.conversation
    left = ["one", "a", "two", "b"]
    item_delete(conversation, conversation.messages.get(depth=position).public_id)
    del left[position]
    assert texts(conversation) == left
    check_tree(conversation)
    # A stateless client that repeats the new history is recognised.
    if position == 0:
        roles = [("assistant", "a"), U2, ("assistant", "b")]
        later = history.say(alice, [*roles, U3], "c")
        assert later.conversation_id == conversation.pk


def test_input_that_meets_its_like_becomes_one_with_it(alice, history) -> None:
    """`one > x > two` loses x, and `one > two` is there already, each with an answer."""
    conversation = make(alice, U1)
    x = items_append(conversation, said(("user", "x")))[0]
    first = continued(history, alice, conversation, [U2], "below x")
    leaf = paths.Leaf.of(conversation.pk, alice.pk, [conversation.messages.get(depth=0).pk])
    second = history.say(alice, [U2], "below one", below=leaf)
    item_delete(conversation, x.public_id)
    check_tree(conversation)
    assert conversation.messages.filter(content="two").count() == 1
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.head_id == second.head_id
    assert {m.content for m in first.head.children.all()} == {"below x", "below one"}


def test_a_deleted_first_message_does_not_live_on_in_the_title(alice) -> None:
    conversation = make(alice, ("user", "my secret"), U2)
    item_delete(conversation, conversation.messages.get(depth=0).public_id)
    assert Conversation.objects.get().title == "two"
    conversation.refresh_from_db()
    item_delete(conversation, conversation.messages.get().public_id)
    assert Conversation.objects.get().title == ""


@pytest.mark.parametrize("content", ["my secret", "what I asked"])
def test_what_is_deleted_is_not_sent_again_for_an_idempotency_key(alice, history, content) -> None:
    """The seed's shape of an answer repeats the question."""
    use = KeyUse.of(b"key", b"request")
    pk = history.start(alice, [("user", "what I asked")], idempotency=use)
    history.finish(pk, "my secret", answer='["what I asked", "my secret"]')
    conversation = Conversation.objects.get()
    item_delete(conversation, conversation.messages.get(content=content).public_id)
    with pytest.raises(AnswerNotKept):
        answered_before(alice.pk, use)


def test_an_unknown_item_is_not_found(alice, bob) -> None:
    mine, other = make(alice, U1), make(bob, U1)
    with pytest.raises(NotFound):
        item_delete(mine, other.messages.get().public_id)
    assert Message.objects.count() == 2


def test_an_item_of_thousands_is_deleted_without_recursion(alice) -> None:
    conversation = make(alice, *[("user", f"m{number}") for number in range(3000)])
    item_delete(conversation, conversation.messages.get(depth=1).public_id)
    assert texts(conversation) == ["m0", *(f"m{number}" for number in range(2, 3000))]
    check_tree(conversation)


def test_trees_stay_right_whatever_is_deleted(alice, history) -> None:
    """Random trees of few different words, so that inputs meet their like often."""
    draw = random.Random(4)
    for _ in range(8):
        conversation = make(alice, ("user", "a"))
        for _ in range(14):
            ends = list(conversation.messages.values_list("pk", "depth", "chain_hash"))
            leaf = paths.Leaf(conversation.pk, *draw.choice(ends))
            word = ("user", draw.choice("ab"))
            history.say(alice, [word], *draw.choice([["a"], ["b"], ["a", "a"]]), below=leaf)
        for _ in range(10):
            left = list(conversation.messages.values_list("public_id", flat=True))
            if left:
                item_delete(conversation, draw.choice(left))
                check_tree(conversation)
                connection.check_constraints()
