"""A key stands for one request, however many transactions want it at the same moment."""

from datetime import timedelta

import pytest
from django.utils import timezone

from conversations import idempotency
from conversations.errors import AnswerNotKept, KeyInFlight, KeyReused
from conversations.idempotency import KeyTaken, KeyUse, answered_before, keys_prune
from conversations.models import Completion, CompletionContent, IdempotencyKey, Message

pytestmark = pytest.mark.django_db(transaction=True)

USE = KeyUse.of(b"key", b"request")
OTHER_USE = KeyUse.of(b"key", b"another request")
U1 = ("user", "hello")


def start_all_at_once(at_once, history, user, count=8):
    """How many of them took the key."""

    def start(index):
        try:
            return history.start(user, [U1], idempotency=USE)
        except KeyTaken:
            return None

    return [pk for pk in at_once(count, start) if pk is not None]


def test_of_many_transactions_at_once_one_takes_the_key(alice, history, at_once) -> None:
    (pk,) = start_all_at_once(at_once, history, alice)
    assert Completion.objects.count() == Message.objects.count() == 1, "the others left nothing"
    assert CompletionContent.objects.count() == 1
    assert IdempotencyKey.objects.get().completion_id == pk


@pytest.mark.parametrize("status", ["failed", "cancelled", "interrupted"])
def test_of_many_transactions_at_once_one_takes_over_a_key_that_is_free(
    alice, history, at_once, status
) -> None:
    first = history.start(alice, [U1], idempotency=OTHER_USE)
    history.finish(first, "par", status=status)
    (pk,) = start_all_at_once(at_once, history, alice)
    row = IdempotencyKey.objects.get()
    assert (row.completion_id, row.fingerprint, row.answer) == (pk, USE.fingerprint, "")
    with pytest.raises(KeyInFlight):
        answered_before(alice.pk, USE)


def test_a_key_that_is_taken_while_it_was_thought_free_is_taken(alice, history) -> None:
    pk = history.start(alice, [U1], idempotency=USE)
    with pytest.raises(KeyTaken):
        history.start(alice, [U1], idempotency=USE)
    history.finish(pk, "hi", answer='{"said": "hi"}')
    with pytest.raises(KeyTaken):
        history.start(alice, [U1], idempotency=USE)
    answered = answered_before(alice.pk, USE)
    assert answered is not None
    assert answered.answer == '{"said": "hi"}'
    assert Completion.objects.count() == 1


def test_one_of_another_request_is_refused_as_such(alice, history) -> None:
    pk = history.start(alice, [U1], idempotency=USE)
    with pytest.raises(KeyReused):
        answered_before(alice.pk, OTHER_USE)
    history.finish(pk, "hi")
    with pytest.raises(AnswerNotKept):
        answered_before(alice.pk, USE)
    with pytest.raises(KeyReused):
        answered_before(alice.pk, OTHER_USE)


def test_keys_of_two_users_are_two(alice, bob, history) -> None:
    pks = [history.start(user, [U1], idempotency=USE) for user in (alice, bob)]
    history.finish(pks[0], "hi", answer="{}")
    with pytest.raises(KeyInFlight):
        answered_before(bob.pk, USE)


def test_an_end_that_comes_late_leaves_the_key_with_whom_it_is_now(alice, history) -> None:
    """Swept by a process that took this one for dead, then asked anew."""
    first = history.start(alice, [U1], idempotency=USE)
    history.finish(first, status="interrupted")
    second = history.start(alice, [U1], idempotency=USE)
    history.finish(first, "late", answer='{"late": true}')
    row = IdempotencyKey.objects.get()
    assert (row.completion_id, row.answer) == (second, "")


def test_an_erased_request_gets_no_answer_by_a_late_end(alice, history) -> None:
    pk = history.start(alice, prompt="hello", idempotency=USE)
    Completion.objects.update(erased_at=timezone.now())
    history.finish(pk, "hi", answer="{}")
    assert IdempotencyKey.objects.get().answer == ""


def test_old_keys_go_in_batches_and_others_stay(alice, history, monkeypatch) -> None:
    monkeypatch.setattr(idempotency, "KEYS_AT_ONCE", 2)
    for number in range(5):
        use = KeyUse.of(b"%d" % number, b"")
        history.finish(history.start(alice, prompt="x", idempotency=use), "y")
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    history.start(alice, prompt="x", idempotency=USE)
    stops = iter([False, True])
    assert keys_prune(should_stop=lambda: next(stops)) == 2
    assert keys_prune() == 3
    assert IdempotencyKey.objects.get().digest == USE.digest
    assert Completion.objects.count() == 6
