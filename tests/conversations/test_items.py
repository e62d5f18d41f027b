"""Conversations by id: their path, and a tree that stays right when items come and go."""

import random

import pytest
from django.db import connection

from conversations.errors import ConversationBusy, ConversationChanged, NotFound
from conversations.models import Completion, Conversation, Message
from conversations.services import NewMessage
from conversations.tree import chain, paths
from conversations.tree.items import conversation_create, item_delete, items_append
from conversations.tree.paths import history_of, path_of

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
