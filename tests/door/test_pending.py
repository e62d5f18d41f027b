"""Who finds a place among the requests under way, and when the others shall come again."""

import pytest

from accounts.errors import RateLimitExceeded
from llmapi.errors import ServerUnavailable
from llmapi.lanes import STRANGERS
from llmapi.pending import Pending, Ticket


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pending(clock) -> Pending:
    return Pending(clock)


def as_many_as_pass(pending: Pending, lane: str, most: int = 12, **limits: int) -> list[Ticket]:
    tickets = []
    try:
        while True:
            tickets.append(pending.enter(lane, most, **limits))
    except (RateLimitExceeded, ServerUnavailable):
        return tickets


def wait_s(pending: Pending, most: int) -> int:
    with pytest.raises(ServerUnavailable) as caught:
        pending.enter("somebody", most)
    return int(caught.value.headers["Retry-After"])


def test_each_user_may_have_as_many_as_are_left_for_others(pending) -> None:
    greedy = as_many_as_pass(pending, "greedy")
    assert len(greedy) == 6
    assert len(as_many_as_pass(pending, "also greedy")) == 3
    assert len(as_many_as_pass(pending, "third")) == 2
    pending.enter("modest", 12)
    with pytest.raises(ServerUnavailable):
        pending.enter("somebody", 12)
    for ticket in greedy:
        ticket.leave(was_accepted=True)
    assert len(pending) == 6
    pending.enter("somebody", 12)


def test_who_has_its_part_is_told_so_and_others_still_come_in(pending) -> None:
    as_many_as_pass(pending, "greedy")
    with pytest.raises(RateLimitExceeded) as caught:
        pending.enter("greedy", 12)
    assert (caught.value.status_code, caught.value.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 120
    assert "6" in caught.value.message
    pending.enter("modest", 12)


def test_a_number_that_is_set_counts_instead(pending) -> None:
    assert len(as_many_as_pass(pending, "one", most_each=2)) == 2
    assert len(as_many_as_pass(pending, "other", most_each=20)) == 10


def test_one_place_is_enough_for_one(pending) -> None:
    ticket = pending.enter("one", 1)
    with pytest.raises(ServerUnavailable):
        pending.enter("other", 1)
    ticket.leave(was_accepted=True)
    pending.enter("other", 1)


def test_whose_a_request_is_may_turn_out_later(pending) -> None:
    """So that a new key, of which many requests come at once, does not go round the bound."""
    first = as_many_as_pass(pending, STRANGERS)
    for ticket in first:
        ticket.move("greedy")
    assert len(first) == 6
    second = pending.enter(STRANGERS, 12)
    with pytest.raises(RateLimitExceeded):
        second.move("greedy")
    second.move("modest")
    first[0].move("greedy")  # it is there already
    assert pending._counts == {"greedy": 6, "modest": 1}


def test_strangers_share_one_part_and_are_told_that_the_server_is_busy(pending) -> None:
    as_many_as_pass(pending, STRANGERS)
    with pytest.raises(ServerUnavailable):
        pending.enter(STRANGERS, 12)
    pending.enter("somebody who is known", 12)


def test_who_left_in_the_meantime_is_not_counted_again(pending) -> None:
    ticket = pending.enter(STRANGERS, 12)
    ticket.leave(was_accepted=False)
    ticket.move("alice")
    assert len(pending) == 0
    assert not pending._counts


def test_when_to_come_again_is_what_the_queue_takes_at_the_rate_of_late(pending, clock) -> None:
    tickets = [pending.enter(f"user {n}", 100) for n in range(100)]
    assert wait_s(pending, 100) == 5, "nobody has ended yet, and it has just begun"
    clock.now += 30
    assert wait_s(pending, 100) == 30, "for so long nobody has ended"
    for ticket in tickets[:20]:
        ticket.leave(was_accepted=True)
    tickets += [pending.enter(f"new {n}", 100) for n in range(20)]
    assert wait_s(pending, 100) == 120, "20 in 30 s: 150 s for a hundred, and nobody waits so long"
    for ticket in tickets[20:80]:
        ticket.leave(was_accepted=True)
    for n in range(60):
        pending.enter(f"newer {n}", 100)
    assert wait_s(pending, 100) == 38, "80 in 30 s"
    clock.now += 60.1
    assert wait_s(pending, 100) == 91, "those are of another minute"


def test_what_was_refused_says_nothing_of_the_rate(pending, clock) -> None:
    for n in range(10):
        pending.enter(f"user {n}", 20)
    clock.now += 10
    for n in range(10):
        pending.enter(f"refused {n}", 20).leave(was_accepted=False)
    for n in range(10):
        pending.enter(f"other {n}", 20)
    assert wait_s(pending, 20) == 10


def test_after_a_pause_the_rate_is_that_of_the_new_work(pending, clock) -> None:
    pending.enter("alice", 2).leave(was_accepted=True)
    clock.now += 3600
    pending.enter("alice", 2)
    pending.enter("bob", 2)
    clock.now += 7
    assert wait_s(pending, 2) == 7
