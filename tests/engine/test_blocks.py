"""Blocks, without a tensor: given out once, shared by forks, free again when nobody has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerproof.engine.blocks import BLOCK_SIZE, NULL_BLOCK, BlockManager, NoBlockError, blocks_of


def test_a_sequence_takes_the_blocks_that_its_tokens_fill():
    blocks = BlockManager(4)
    blocks.allocate("a", BLOCK_SIZE + 1)
    blocks.allocate("b", 0)
    assert len(blocks.table("a")) == 2
    assert blocks.table("b") == []
    assert NULL_BLOCK not in blocks.table("a")
    assert blocks.append("b") not in blocks.table("a")
    assert blocks.free == 1
    assert blocks.holders == ["a", "b"]


def test_a_fork_shares_what_is_full_and_is_told_to_copy_the_rest():
    blocks = BlockManager(4)
    blocks.allocate("parent", BLOCK_SIZE + 3)
    first, second = blocks.table("parent")
    assert blocks.fork("parent", "child", BLOCK_SIZE + 3) == (second, blocks.table("child")[1])
    assert blocks.table("child")[0] == first
    assert blocks.fork("parent", "twin", BLOCK_SIZE) is None
    assert blocks.table("twin") == [first]
    assert blocks.free == 1
    blocks.release("parent")
    assert blocks.free == 2  # Only its own last block: the others still have the first.
    blocks.release("child")
    blocks.release("twin")
    assert blocks.free == 4


def test_who_gets_no_block_gets_nothing():
    blocks = BlockManager(2)
    blocks.allocate("a", BLOCK_SIZE + 1)
    with pytest.raises(NoBlockError, match="1 blocks asked for, 0 of 2"):
        blocks.allocate("b", 1)
    with pytest.raises(NoBlockError, match="a fork needs a block"):
        blocks.fork("a", "b", BLOCK_SIZE + 1)
    with pytest.raises(NoBlockError, match="one more block"):
        blocks.append("a")
    assert blocks.holders == ["a"]
    blocks.release("a")
    assert blocks.free == 2


@given(st.lists(st.tuples(st.sampled_from("aafr"), st.integers(0, 50)), max_size=60))
def test_every_block_is_free_or_counted_once_for_each_that_has_it(deeds):
    blocks, lengths = BlockManager(12), {}
    for number, (deed, size) in enumerate(deeds):
        holders = blocks.holders
        try:
            if deed == "a":
                blocks.allocate(number, size)
                lengths[number] = size
            elif holders and deed == "f":
                parent = holders[size % len(holders)]
                blocks.fork(parent, number, lengths[parent])
                lengths[number] = lengths[parent]
            elif holders:
                blocks.release(holders[size % len(holders)])
        except NoBlockError:
            assert number not in blocks.holders
        held = [block for holder in blocks.holders for block in blocks.table(holder)]
        assert sorted({*held, *blocks._free}) == list(range(1, 13))
        assert not {*held} & {*blocks._free}
        assert {b: held.count(b) for b in held} == {b: blocks._uses[b] for b in held}
        assert all(len(blocks.table(h)) == blocks_of(lengths[h]) for h in blocks.holders)
