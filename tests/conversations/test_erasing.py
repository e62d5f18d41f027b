"""What is erased is gone, what others need stays, and usage is counted all the same."""

import random
from contextlib import suppress

import pytest

from conversations.errors import ConversationBusy
from conversations.models import Completion, CompletionContent, Conversation, Message
from conversations.processes.sweeping import processes_sweep
from conversations.retention.erasing import (
    completion_erase,
    conversation_erase,
    user_erase,
)
from conversations.services import completions_flush
from conversations.tree.titles import conversation_rename
from tests.conversations.marked import A1, MARK, U1, U2, U3, everything_said_by, places_of

A2 = ("assistant", f"{MARK} four")


def said(conversation: Conversation) -> list[str]:
    return [m.content for m in conversation.messages.order_by("depth", "pk")]


# ---- one request ---------------------------------------------------------------------------------


def test_erased_completion_keeps_its_usage_and_nothing_else(alice, history) -> None:
    pk = history.start(alice, prompt=MARK)
    history.finish(pk, MARK)
    row = Completion.objects.get(pk=pk)
    completion_erase(row.pk)
    row.refresh_from_db()
    assert row.erased_at is not None
    assert (row.user, row.model, row.status) == (alice, "tiny", "completed")
    assert (row.prompt_tokens, row.completion_tokens, row.duration_ms) == (7, 5, 345)
    assert not CompletionContent.objects.exists()


def test_chat_of_one_turn_goes_with_its_conversation(alice, history) -> None:
    row = history.say(alice, [U1], A1[1])
    completion_erase(row.pk)
    row.refresh_from_db()
    assert (row.conversation, row.head) == (None, None)
    assert not Conversation.objects.exists()
    assert not Message.objects.exists()
    assert places_of(MARK) == []


def test_what_a_later_turn_repeats_stays(alice, history) -> None:
    first = history.say(alice, [U1], A1[1])
    second = history.say(alice, [U1, A1, U2], A2[1])
    completion_erase(first.pk)
    conversation = Conversation.objects.get()
    assert said(conversation) == [U1[1], A1[1], U2[1], A2[1]]
    assert first.outputs.count() == 0
    completion_erase(second.pk)
    assert not Message.objects.exists()


def test_last_turn_goes_and_leaves_the_others(alice, history) -> None:
    history.say(alice, [U1], A1[1])
    second = history.say(alice, [U1, A1, U2], A2[1])
    completion_erase(second.pk)
    assert said(Conversation.objects.get()) == [U1[1], A1[1]]


def test_a_name_that_the_owner_gave_stays(alice, history) -> None:
    history.say(alice, [U1], A1[1])
    second = history.say(alice, [U1, A1, U2], A2[1])
    conversation_rename(Conversation.objects.get(), "My own name")
    completion_erase(second.pk)
    assert Conversation.objects.get().title == "My own name"


def test_of_two_answers_to_one_question_one_goes(alice, history) -> None:
    history.say(alice, [U1], A1[1])
    kept = history.say(alice, [U1, A1, U2], "kept")
    erased = history.say(alice, [U1, A1, U2], "erased")
    assert kept.head_id == erased.head_id
    completion_erase(erased.pk)
    assert said(Conversation.objects.get()) == [U1[1], A1[1], U2[1], "kept"]


def test_conversation_goes_on_below_an_erased_turn(alice, history) -> None:
    first = history.say(alice, [U1], A1[1])
    history.say(alice, [U1, A1, U2], A2[1])
    completion_erase(first.pk)
    third = history.say(alice, [U1, A1, U2, A2, U3], "six")
    assert Conversation.objects.count() == 1
    assert third.head.depth == 4


def test_answer_that_was_erased_is_not_continued(alice, history) -> None:
    history.say(alice, [U1], A1[1])
    second = history.say(alice, [U1, A1, U2], A2[1])
    completion_erase(second.pk)
    third = history.say(alice, [U1, A1, U2, A2, U3], "six")
    assert third.conversation_id == second.conversation_id
    assert said(third.conversation) == [*(t[1] for t in (U1, A1, U2, A2, U3)), "six"]


def test_running_completion_is_not_erased(alice, history) -> None:
    pk = history.start(alice, [U1])
    with pytest.raises(ConversationBusy):
        completion_erase(pk)
    assert said(Conversation.objects.get()) == [U1[1]]
    history.finish(pk, "answer")
    completion_erase(pk)
    completion_erase(pk)
    assert not Message.objects.exists()


def test_unknown_ones_are_refused(db) -> None:
    with pytest.raises(Completion.DoesNotExist):
        completion_erase(1)
    with pytest.raises(Conversation.DoesNotExist):
        conversation_erase(1)


def test_erasing_all_requests_in_any_order_leaves_nothing(alice, history) -> None:
    for seed in range(5):
        rng = random.Random(seed)
        first = history.say(alice, [U1], A1[1], "other")
        rows = [first]
        for _ in range(6):
            before = rng.choice(rows)
            path, message = [], rng.choice(list(before.outputs.all()))
            while message is not None:
                path.append((message.role, message.content))
                message = message.parent
            chat = [*path[::-1], ("user", f"{rng.random()}")]
            rows.append(history.say(alice, chat, f"{rng.random()}", f"{rng.random()}"))
        assert {row.conversation_id for row in rows} == {first.conversation_id}
        rng.shuffle(rows)
        for index, row in enumerate(rows):
            completion_erase(row.pk)
            for other in Completion.objects.filter(pk__in=[r.pk for r in rows[index + 1 :]]):
                assert other.head is not None
                assert other.outputs.count() == 2
        assert not Message.objects.exists()
        assert not Conversation.objects.exists()


def test_long_chat_is_erased(alice, history) -> None:
    long = [("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(3001)]
    row = history.say(alice, long, "the end")
    completion_erase(row.pk)
    assert not Message.objects.exists()


# ---- a conversation ------------------------------------------------------------------------------


def test_erased_conversation_leaves_its_requests_as_usage(alice, history) -> None:
    rows = [history.say(alice, [U1], A1[1]), history.say(alice, [U1, A1, U2], A2[1])]
    other = history.say(alice, [("user", "another")], "chat")
    conversation_erase(rows[0].conversation_id)
    assert list(Conversation.objects.all()) == [other.conversation]
    assert Completion.objects.exclude(erased_at=None).count() == 2
    assert places_of(MARK) == []


def test_conversation_with_a_running_request_is_not_erased(alice, history) -> None:
    row = history.say(alice, [U1], A1[1])
    history.start(alice, [U1, A1, U2])
    with pytest.raises(ConversationBusy):
        conversation_erase(row.conversation_id)
    assert Conversation.objects.get().messages.count() == 3
    assert not Completion.objects.exclude(erased_at=None).exists()


@pytest.mark.django_db(transaction=True)
def test_turns_and_erasures_at_once_break_nothing(alice, history, at_once) -> None:
    row = history.say(alice, [U1], A1[1])

    def work(index: int) -> None:
        for turn in range(4):
            if index % 2:
                history.say(alice, [U1, A1, ("user", f"{index} {turn}")], "answer")
                continue
            for pk in Conversation.objects.filter(user=alice).values_list("pk", flat=True):
                with suppress(ConversationBusy, Conversation.DoesNotExist):
                    conversation_erase(pk)

    at_once(6, work)
    assert Completion.objects.filter(status="completed").count() == 1 + 3 * 4
    for conversation in Conversation.objects.all():
        conversation_erase(conversation.pk)
    assert not Message.objects.exists()
    assert Completion.objects.get(pk=row.pk).erased_at is not None


# ---- a user --------------------------------------------------------------------------------------


def test_no_text_of_an_erased_user_remains_in_any_column_of_any_table(alice, bob, history) -> None:
    everything_said_by(alice, history)
    assert len(places_of(MARK)) >= 8
    others = history.say(bob, [("user", "what bob says")], "and is answered")
    assert user_erase(alice.pk) == (2, 5)
    assert places_of(MARK) == []
    others.refresh_from_db()
    assert said(others.conversation) == ["what bob says", "and is answered"]
    rows = Completion.objects.filter(user=alice)
    assert [(r.prompt_tokens, r.erased_at is not None) for r in rows] == [(7, True)] * 5


def test_request_that_ends_after_its_user_was_erased_leaves_no_text(alice, history) -> None:
    chat = history.start(alice, [U1])
    plain = history.start(alice, prompt=MARK)
    completions_flush({chat: ((MARK,), 1), plain: ((MARK,), 1)})
    user_erase(alice.pk)
    completions_flush({chat: ((f"{MARK} more",), 2), plain: ((f"{MARK} more",), 2)})
    assert places_of(MARK) == []
    for pk in (chat, plain):
        history.finish(pk, f"{MARK} to the end", error=f"{MARK} failed")
        history.finish(pk, f"{MARK} once more", status="failed", error=f"{MARK} failed")
        row = Completion.objects.get(pk=pk)
        assert (row.status, row.completion_tokens) == ("failed", 5)
    assert places_of(MARK) == []


def test_request_of_an_erased_user_whose_process_died_is_ended(alice, history) -> None:
    pk = history.start(alice, [U1], process_id=None)
    user_erase(alice.pk)
    processes_sweep()
    history.finish(pk, MARK, status="interrupted")
    assert Completion.objects.get(pk=pk).status == "interrupted"
    assert places_of(MARK) == []
