"""Accepted is committed, a chat is one tree, and an end is written once."""

import pytest
from django.db import IntegrityError

from accounts import services as accounts
from conversations.models import Completion, CompletionContent, Conversation, Message
from conversations.services import NewMessage, completions_flush
from conversations.tree import chain
from conversations.tree.placing import title_of

U1 = ("user", "hello")
A1 = ("assistant", "hi there")
U2 = ("user", "how are you?")
A2 = ("assistant", "fine")
SYSTEM = ("system", "You are kind.")


def only_conversation() -> Conversation:
    return Conversation.objects.get()


def shape(conversation: Conversation) -> list[tuple[int, str, str, int | None]]:
    """(depth, role, content, position of the parent) in the order of creation."""
    rows = list(conversation.messages.order_by("pk"))
    positions = {row.pk: position for position, row in enumerate(rows)}
    return [(r.depth, r.role, r.content, positions.get(r.parent_id)) for r in rows]


# ---- a request's life ----------------------------------------------------------------------------


def test_started_chat_is_a_running_row_with_its_input_in_the_tree(alice, history) -> None:
    key, _ = accounts.key_create(user=alice)
    pk = history.start(alice, [SYSTEM, U1], api_key_id=key.pk, request_id="req_x", streamed=False)
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.kind, row.user, row.api_key) == ("running", "chat", alice, key)
    assert (row.model, row.request_id, row.streamed, row.prompt_tokens) == (
        "tiny",
        "req_x",
        False,
        7,
    )
    assert (row.conversation.user, row.conversation.api_key) == (alice, key)
    assert row.conversation.title == "hello"
    assert row.head.content == "hello"
    assert row.finished_at is None
    assert (row.content.parameters, row.content.prompt, row.content.output) == (
        {"temperature": 0.2},
        None,
        [],
    )
    assert shape(row.conversation) == [(0, *SYSTEM, None), (1, *U1, 0)]


def test_finished_chat_has_its_answer_below_its_head(alice, history) -> None:
    row = history.say(alice, [U1], "hi there")
    answer = row.outputs.get()
    assert (answer.parent, answer.depth, answer.role) == (row.head, 1, "assistant")
    assert (answer.content, answer.choice_index, answer.finish_reason) == ("hi there", 0, "stop")
    assert (row.status, row.finish_reason, row.completion_tokens) == ("completed", "stop", 5)
    assert (row.first_token_ms, row.duration_ms, row.error) == (12, 345, "")
    assert row.finished_at is not None
    assert row.content.output == []
    assert row.conversation.updated_at == row.finished_at


def test_completion_keeps_prompt_and_output_beside_its_row(alice, history) -> None:
    pk = history.start(alice, prompt=["one", "two"])
    history.finish(pk, "1", "2")
    row = Completion.objects.get(pk=pk)
    assert (row.conversation, row.head) == (None, None)
    assert row.content.prompt == ["one", "two"]
    assert row.content.output == [
        {"text": "1", "finish_reason": "stop"},
        {"text": "2", "finish_reason": "stop"},
    ]
    assert not Message.objects.exists()


def test_embedding_keeps_inputs_and_usage_and_no_output(alice, history) -> None:
    pk = history.start(alice, kind="embedding", prompt=[[1, 2], [3]])
    history.finish(pk, completion_tokens=0, first_token_ms=None)
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.content.prompt, row.content.output) == (
        "completed",
        [[1, 2], [3]],
        [],
    )


def test_chat_without_messages_is_a_programming_error(alice, history) -> None:
    with pytest.raises(ValueError):
        history.start(alice, kind="chat")
    assert not Completion.objects.exists()


def test_any_text_comes_back_as_it_was(alice, history) -> None:
    text = "北京 😀 \x01\x1f\u2028 \\ \" ' % _ <b> \r\n\t"
    row = history.say(alice, [("user", text)], text)
    assert row.head.content == text
    assert row.outputs.get().content == text


def test_refused_insert_leaves_nothing(alice, history) -> None:
    history.start(alice, [U1], public_id="chatcmpl-same")
    before = (Conversation.objects.count(), Message.objects.count())
    with pytest.raises(IntegrityError):
        history.start(alice, [U2], public_id="chatcmpl-same")
    assert (Conversation.objects.count(), Message.objects.count()) == before


# ---- the tree ------------------------------------------------------------------------------------


def test_ten_turns_are_one_conversation_of_twenty_messages(alice, history) -> None:
    messages = []
    for turn in range(10):
        messages.append(("user", f"question {turn}"))
        history.say(alice, messages, f"answer {turn}")
        messages.append(("assistant", f"answer {turn}"))
    conversation = only_conversation()
    assert conversation.completions.count() == 10
    stored = conversation.messages.order_by("depth")
    assert [(m.role, m.content) for m in stored] == messages
    assert [m.parent_id for m in stored][1:] == [m.pk for m in stored][:-1]
    assert conversation.title == "question 0"


def test_regenerated_answer_is_a_sibling_and_no_input_is_stored_twice(alice, history) -> None:
    history.say(alice, [U1], "hi there")
    history.say(alice, [U1, A1, U2], "fine")
    again = history.say(alice, [U1, A1, U2], "very well")
    assert shape(only_conversation()) == [
        (0, *U1, None),
        (1, *A1, 0),
        (2, *U2, 1),
        (3, *A2, 2),
        (3, "assistant", "very well", 2),
    ]
    assert again.head.content == "how are you?"


def test_edited_question_is_a_sibling(alice, history) -> None:
    history.say(alice, [U1], "hi there")
    history.say(alice, [U1, A1, U2], "fine")
    history.say(alice, [U1, A1, ("user", "what is this?")], "a test")
    assert shape(only_conversation())[4:] == [
        (2, "user", "what is this?", 1),
        (3, "assistant", "a test", 4),
    ]


def test_every_choice_is_a_sibling_and_any_of_them_is_continued(alice, history) -> None:
    first = history.say(alice, [U1], "hi there", "good day", "hello!")
    assert [(m.choice_index, m.parent) for m in first.outputs.order_by("choice_index")] == [
        (index, first.head) for index in range(3)
    ]
    history.say(alice, [U1, ("assistant", "good day"), U2], "fine")
    conversation = only_conversation()
    question = conversation.messages.get(content="how are you?")
    assert question.parent.content == "good day"


def test_equal_answers_are_continued_in_one_place(alice, history) -> None:
    history.say(alice, [U1], "hi there", "hi there")
    history.say(alice, [U1, A1, U2], "fine")
    history.say(alice, [U1, A1, U2], "fine")
    conversation = only_conversation()
    assert conversation.messages.filter(role="user").count() == 2
    assert conversation.messages.filter(content="fine").count() == 2


def test_deepest_answer_wins_over_an_earlier_one(alice, history) -> None:
    history.say(alice, [U1], "hi there")
    history.say(alice, [U1, A1, U2], "fine")
    last = history.say(alice, [U1, A1, U2, A2, ("user", "bye")], "bye")
    assert last.head.parent.content == "fine"
    assert last.head.depth == 4


def test_equal_beginnings_are_conversations_of_their_own(alice, history) -> None:
    history.say(alice, [SYSTEM, U1], "hi there")
    history.say(alice, [SYSTEM, U1], "good day")
    assert Conversation.objects.count() == 2


def test_answer_that_was_not_generated_here_continues_nothing(alice, history) -> None:
    history.say(alice, [U1, ("assistant", "from elsewhere"), U2], "fine")
    history.say(alice, [U1, ("assistant", "from elsewhere"), U2], "fine")
    assert Conversation.objects.count() == 2


def test_changed_system_message_begins_anew_and_developer_is_not_system(alice, history) -> None:
    history.say(alice, [SYSTEM, U1], "hi there")
    history.say(alice, [("developer", SYSTEM[1]), U1, A1, U2], "fine")
    assert Conversation.objects.count() == 2


def test_other_users_history_never_matches(alice, bob, history) -> None:
    history.say(alice, [U1], "hi there")
    history.say(bob, [U1, A1, U2], "fine")
    assert Conversation.objects.count() == 2
    assert Conversation.objects.get(user=bob).messages.count() == 4


def test_forged_hash_of_another_user_does_not_open_the_conversation(alice, bob, history) -> None:
    said = history.say(alice, [U1], "hi there")
    forged = chain.hashes(bob.pk, [("user", "", "hello"), ("assistant", "", "hi there")])[-1]
    said.outputs.update(chain_hash=forged)
    history.say(bob, [U1, A1, U2], "fine")
    assert Conversation.objects.get(user=alice).messages.count() == 2


def test_anonymous_history_never_matches(history, db) -> None:
    nobody = accounts.anonymous_user()
    history.say(nobody, [U1], "hi there", match_history=False)
    history.say(nobody, [U1, A1, U2], "fine", match_history=False)
    assert Conversation.objects.count() == 2


def test_cut_answer_is_continued_as_it_was_cut(alice, history) -> None:
    pk = history.start(alice, [U1])
    history.finish(pk, "hi th", status="cancelled")
    history.say(alice, [U1, ("assistant", "hi th"), U2], "fine")
    assert only_conversation().messages.count() == 4


def test_history_that_ends_in_an_answer_of_ours_hangs_below_it(alice, history) -> None:
    first = history.say(alice, [U1], "hi there")
    more = history.say(alice, [U1, A1], "and more")
    assert more.head == first.outputs.get()
    assert shape(only_conversation())[2:] == [(2, "assistant", "and more", 1)]


def test_queries_do_not_grow_with_history_or_with_equal_beginnings(
    alice, history, django_assert_max_num_queries
) -> None:
    long = [("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(61)]
    # The look-up, the lock, the inputs that are there, the keys, four INSERTs, two of a savepoint.
    with django_assert_max_num_queries(10):
        pk = history.start(alice, long)
    history.finish(pk, "the end")
    for _ in range(20):
        history.start(alice, long)
    with django_assert_max_num_queries(10):
        history.start(alice, [*long, ("assistant", "the end"), U1, A1, U2])
    assert Conversation.objects.filter(messages__content="message 0").count() == 21


def test_history_longer_than_one_query_is_matched(alice, history) -> None:
    long = [("user" if i % 2 == 0 else "assistant", str(i)) for i in range(2401)]
    history.say(alice, long, "the end")
    # The answer is the last message but 1,400: further up than one portion of hashes.
    tail = [("assistant" if i % 2 else "user", f"more {i}") for i in range(1400)]
    whole = [*long, ("assistant", "the end"), *tail]
    history.say(alice, whole, "so be it")
    history.say(alice, whole, "or so")
    conversation = only_conversation()
    assert conversation.messages.count() == 2401 + 1 + 1400 + 2
    assert conversation.messages.get(content="or so").depth == 2401 + 1 + 1400


def test_deep_conversation_can_be_deleted(alice, history) -> None:
    long = [("user", str(i)) for i in range(1500)]
    history.say(alice, long, "the end")
    only_conversation().delete()
    row = Completion.objects.get()
    assert (row.conversation, row.head) == (None, None)


def test_title_is_the_first_users_words_shortened() -> None:
    def title(*messages: tuple[str, object]) -> str:
        return title_of([NewMessage(*message) for message in messages])  # type: ignore[arg-type]

    assert title(SYSTEM, ("user", "  two\n words ")) == "two words"
    assert title(("user", [{"type": "text", "text": "part"}, {"type": "image"}])) == "part"
    assert title(("user", None)) == ""
    assert title(SYSTEM) == "You are kind."
    long = title(("user", "很" * 5_000_000))
    assert (len(long), long[-1]) == (80, "…")


# ---- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["cancelled", "failed", "interrupted"])
def test_partial_answer_is_kept_and_an_empty_one_is_none(alice, history, status: str) -> None:
    cut, silent = history.start(alice, [U1]), history.start(alice, [U2])
    history.finish(cut, "hi", "", status=status, error="why")
    history.finish(silent, "", status=status)
    row = Completion.objects.get(pk=cut)
    assert (row.status, row.finish_reason, row.error) == (status, "", "why")
    assert [message.content for message in row.outputs.all()] == ["hi"]
    assert not Message.objects.filter(completion=silent).exists()


def test_empty_answer_that_came_to_its_end_is_an_answer(alice, history) -> None:
    assert history.say(alice, [U1], "").outputs.get().content == ""


def test_finishing_twice_adds_nothing(alice, history) -> None:
    pk = history.start(alice, [U1])
    history.finish(pk, "hi there", "good day")
    before = shape(only_conversation())
    history.finish(pk, "hi there", "good day")
    assert shape(only_conversation()) == before


def test_true_end_wins_over_what_a_sweep_supposed(alice, history) -> None:
    pk = history.start(alice, [U1])
    history.finish(pk, "hi th", status="interrupted", error="swept")
    history.finish(pk, "hi there", "good day")
    row = Completion.objects.get(pk=pk)
    assert (row.status, row.error, row.finish_reason) == ("completed", "", "stop")
    assert [m.content for m in row.outputs.order_by("choice_index")] == ["hi there", "good day"]
    # And the chain goes on from the true text.
    history.say(alice, [U1, A1, U2], "fine")
    assert Conversation.objects.count() == 1


def test_answer_whose_conversation_is_gone_stays_with_its_row(alice, history) -> None:
    pk = history.start(alice, [U1])
    only_conversation().delete()
    history.finish(pk, "hi there")
    content = CompletionContent.objects.get(completion=pk)
    assert content.output == [{"text": "hi there", "finish_reason": "stop"}]
    assert Completion.objects.get(pk=pk).status == "completed"


def test_long_error_is_shortened_to_its_column(alice, history) -> None:
    pk = history.start(alice, [U1])
    history.finish(pk, status="failed", error="x" * 5000)
    assert len(Completion.objects.get(pk=pk).error) == 500


def test_flush_keeps_partial_texts_of_running_rows_only(
    alice, history, django_assert_num_queries
) -> None:
    running = [history.start(alice, [("user", str(i))]) for i in range(20)]
    ended = history.start(alice, [U1])
    history.finish(ended, "hi there")
    partials = {pk: ((f"so far {pk}", ""), 3) for pk in [*running, ended, 10**9]}
    with django_assert_num_queries(5):  # of which two are the savepoint
        completions_flush(partials)
    completions_flush({})
    for pk in running:
        row = Completion.objects.get(pk=pk)
        assert (row.status, row.completion_tokens) == ("running", 3)
        assert row.content.output == [
            {"text": f"so far {pk}", "finish_reason": None},
            {"text": "", "finish_reason": None},
        ]
    row = Completion.objects.get(pk=ended)
    assert (row.completion_tokens, row.content.output) == (5, [])


def test_flush_of_two_hundred_streams_works(alice, history) -> None:
    pks = [history.start(alice, prompt=str(i)) for i in range(200)]
    completions_flush({pk: ((f"text {pk}",), pk) for pk in pks})
    for row in Completion.objects.select_related("content"):
        assert row.completion_tokens == row.pk
        assert row.content.output[0]["text"] == f"text {row.pk}"


# ---- at once -------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_regenerates_at_once_share_their_question(alice, history, at_once) -> None:
    history.say(alice, [U1], "hi there")
    at_once(8, lambda index: history.say(alice, [U1, A1, U2], f"answer {index}"))
    conversation = only_conversation()
    question = conversation.messages.get(content="how are you?")
    assert question.children.count() == 8
    assert conversation.messages.count() == 3 + 8


@pytest.mark.django_db(transaction=True)
def test_conversations_begun_at_once_are_trees_of_their_own(alice, history, at_once) -> None:
    long = [("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(21)]
    at_once(8, lambda index: history.say(alice, long, f"answer {index}"))
    assert Conversation.objects.count() == 8
    for conversation in Conversation.objects.all():
        stored = list(conversation.messages.order_by("depth"))
        assert [m.parent_id for m in stored] == [None, *(m.pk for m in stored[:-1])]
        assert len(stored) == 22


@pytest.mark.django_db(transaction=True)
def test_flush_and_finish_at_once_leave_the_finish(alice, history, at_once) -> None:
    pks = [history.start(alice, [("user", str(i))]) for i in range(24)]

    def work(index: int) -> None:
        if index < 4:
            for pk in pks[index::4]:
                history.finish(pk, "done")
        else:
            for _ in range(6):
                completions_flush(dict.fromkeys(pks, (("part",), 1)))

    at_once(6, work)
    for row in Completion.objects.select_related("content"):
        assert (row.status, row.content.output, row.completion_tokens) == ("completed", [], 5)
        assert row.outputs.get().content == "done"
