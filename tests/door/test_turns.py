"""Who waits is taken in turn, lane by lane."""

import asyncio

from llmapi.turns import Turns


async def at_work(turns: Turns, lane: str, order: list[str]) -> None:
    await turns.take(lane)
    order.append(lane)
    await asyncio.sleep(0)
    turns.leave()


async def test_one_of_another_lane_waits_for_one_and_not_for_a_hundred() -> None:
    turns, order = Turns(1), []
    await turns.take("first")
    greedy = [asyncio.create_task(at_work(turns, "greedy", order)) for _ in range(100)]
    await asyncio.sleep(0)
    modest = asyncio.create_task(at_work(turns, "modest", order))
    await asyncio.sleep(0)
    turns.leave()
    await asyncio.gather(modest, *greedy)
    assert order.index("modest") == 1
    assert len(order) == 101


async def test_so_many_and_no_more_are_at_work() -> None:
    turns, now, most = Turns(3), 0, 0

    async def work(lane: str) -> None:
        nonlocal now, most
        await turns.take(lane)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        turns.leave()

    await asyncio.gather(*(work(f"lane {n % 4}") for n in range(40)))
    assert most == 3
    await asyncio.gather(*(turns.take("new") for _ in range(3)))


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    turns, order = Turns(1), []
    await turns.take("first")
    waiting = [asyncio.create_task(at_work(turns, lane, order)) for lane in ("a", "a", "b")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    turns.leave()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["a", "b"]
    await turns.take("the turn is free again")


async def test_a_turn_that_comes_as_its_waiter_gives_up_is_the_next_ones() -> None:
    turns, order = Turns(1), []
    await turns.take("first")
    gone = asyncio.create_task(at_work(turns, "a", order))
    stays = asyncio.create_task(at_work(turns, "b", order))
    await asyncio.sleep(0)
    turns.leave()  # it is the first one's turn,
    gone.cancel()  # which has not run since
    await asyncio.gather(gone, stays, return_exceptions=True)
    assert order == ["b"]


async def test_a_turn_that_is_free_as_its_first_waiter_gives_up_is_the_next_ones() -> None:
    turns, order = Turns(1), []
    await turns.take("first")
    gone = asyncio.create_task(at_work(turns, "a", order))
    stays = asyncio.create_task(at_work(turns, "b", order))
    await asyncio.sleep(0)
    gone.cancel()  # and has not run since
    turns.leave()
    await asyncio.gather(gone, stays, return_exceptions=True)
    assert order == ["b"]
