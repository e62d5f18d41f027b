"""Blocks are held, cached or free, and never in two places. No torch."""

from collections import Counter

import pytest

from llmapi.engine.blocks import NULL_BLOCK, BlockPool


def test_every_block_is_handed_out_once_and_the_null_block_never() -> None:
    pool = BlockPool(4, 16)
    blocks = pool.allocate(4)
    assert sorted(blocks) == [1, 2, 3, 4]
    assert NULL_BLOCK not in blocks
    assert not pool.can_allocate(1)
    pool.check(Counter(blocks))


def test_a_block_given_back_twice_is_noticed() -> None:
    pool = BlockPool(4, 16)
    blocks = pool.allocate(2)
    pool.free(blocks)
    with pytest.raises(KeyError):
        pool.free(blocks)
    with pytest.raises(IndexError):
        pool.allocate(5)


def test_a_shared_block_is_free_when_its_last_holder_gives_it_back() -> None:
    pool = BlockPool(1, 16)
    blocks = pool.allocate(1)
    pool.share(blocks)
    assert pool.is_shared(blocks[0])
    pool.free(blocks)
    assert not pool.can_allocate(1)
    assert pool.is_private(blocks[0])
    pool.free(blocks)
    assert pool.allocate(1) == blocks


def test_free_blocks_go_first_then_those_longest_without_a_holder() -> None:
    pool = BlockPool(4, 16)
    first, second, third, fourth = pool.allocate(4)
    for block in (first, second, third):
        pool.publish(block, bytes([block]))
    pool.free([second])
    pool.free([first])
    pool.free([third])
    pool.free([fourth])
    pool.share([first])  # in use again, and afterwards the most recent
    pool.free([first])
    assert pool.available == 4
    assert pool.allocate(4) == [fourth, second, third, first]
    assert pool.find(bytes([first])) is None
    pool.check(Counter([1, 2, 3, 4]))


def test_the_first_block_under_a_key_stays() -> None:
    pool = BlockPool(2, 16)
    first, second = pool.allocate(2)
    pool.publish(first, b"key")
    pool.publish(second, b"key")
    assert pool.find(b"key") == first
    assert pool.is_private(second)
    pool.free([first, second])
    pool.check(Counter())


@pytest.mark.parametrize("damage", ["lost", "twice", "miscounted", "key"])
def test_the_check_notices_damage(damage: str) -> None:
    pool = BlockPool(4, 16)
    held = pool.allocate(2)
    pool.publish(held[0], b"key")
    pool.check(Counter(held))
    if damage == "lost":
        pool._free.pop()
    elif damage == "twice":
        pool._free.append(held[1])
    elif damage == "miscounted":
        pool.share(held[:1])
    else:
        pool._key_of.clear()
    with pytest.raises(RuntimeError):
        pool.check(Counter(held))
