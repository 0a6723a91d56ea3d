"""Who has which blocks of the KV cache: a free list, block tables, and reference counts.

A block has room for the keys and values of `BLOCK_SIZE` tokens of one sequence, which lists its
blocks in a block table (Kwon et al. 2023, arXiv 2309.06180). So a sequence takes what it has
written and hardly more, and one that is forked shares the blocks that are full. Nothing here
touches the cache itself: `runner.py` writes and copies.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar, overload

import numpy as np

BLOCK_SIZE = 16
"""Tokens of a block: a sequence's last is half empty, and its table has an entry for each."""
NULL_BLOCK = 0
"""The block that nobody reads: whoever has none of its own writes to it."""

K = TypeVar("K", bound=Hashable)


class NoBlockError(Exception):
    """There are not enough free blocks."""


@overload
def blocks_of(tokens: int) -> int: ...
@overload
def blocks_of(tokens: np.ndarray) -> np.ndarray: ...
def blocks_of(tokens: int | np.ndarray) -> int | np.ndarray:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK_SIZE)


class BlockManager(Generic[K]):
    """The blocks of a cache, and the block tables of sequences."""

    def __init__(self, count: int, columns: int | None = None) -> None:
        """All blocks free.

        Args:
            count: Blocks to give out; they are numbered 1 to `count`.
            columns: Most blocks of one sequence; none for all of them.
        """
        self.count = count
        self._rows = _Rows(columns or count)
        self._free = list(range(count, 0, -1))
        self._uses = [0] * (count + 1)
        self._tables: dict[K, list[int]] = {}
        self._places: dict[K, int] = {}
        """Where each is among `_rows`."""

    @property
    def free(self) -> int:
        """Blocks that nobody has."""
        return len(self._free)

    @property
    def holders(self) -> list[K]:
        """The sequences that have a table, oldest first."""
        return list(self._tables)

    def table(self, sequence: K) -> list[int]:
        """The blocks of a sequence, in the order of its tokens; not to be changed."""
        return self._tables[sequence]

    def tables(self, sequences: Sequence[K]) -> tuple[np.ndarray, np.ndarray]:
        """The tables of sequences as one, and how many blocks each has.

        Returns:
            int32 `[sequences, columns]`, `NULL_BLOCK` where a table has ended; `[sequences]`.
        """
        at = [self._places[sequence] for sequence in sequences]
        return self._rows.blocks[at], self._rows.counts[at]

    def allocate(self, sequence: K, tokens: int) -> None:
        """Give a new sequence blocks for so many tokens.

        Raises:
            NoBlockError: There are not enough; nothing was given.
        """
        if blocks_of(tokens) > self.free:
            raise NoBlockError(f"{blocks_of(tokens)} blocks asked for, {self.free} of {self.count}")
        self._hold(sequence, [self._take() for _ in range(blocks_of(tokens))])

    def append(self, sequence: K) -> int:
        """Give a sequence one more block; returns it.

        Raises:
            NoBlockError: There is none.
        """
        if not self._free:
            raise NoBlockError(f"one more block asked for, none of {self.count} is free")
        block, table = self._take(), self._tables[sequence]
        self._rows.put(self._places[sequence], len(table), block)
        table.append(block)
        return block

    def fork(self, parent: K, child: K, tokens: int) -> tuple[int, int] | None:
        """Give a new sequence what another has written: full blocks are shared, the last copied.

        Args:
            parent: Whose first tokens it has.
            child: The new sequence.
            tokens: How many.

        Returns:
            The block to be copied and the one to copy it to; None when the tokens fill their
            blocks.

        Raises:
            NoBlockError: None is left for the copy; nothing was given.
        """
        full, rest = divmod(tokens, BLOCK_SIZE)
        if rest and not self._free:
            raise NoBlockError(f"a fork needs a block, none of {self.count} is free")
        shared = self._tables[parent]
        table = shared[:full]
        for block in table:
            self._uses[block] += 1
        if rest:
            table.append(self._take())
        self._hold(child, table)
        return (shared[full], table[full]) if rest else None

    def release(self, sequence: K) -> None:
        """Take a sequence's blocks back; those that no other has are free again."""
        for block in self._tables.pop(sequence):
            self._uses[block] -= 1
            if not self._uses[block]:
                self._free.append(block)
        self._rows.leave(self._places.pop(sequence))

    def _hold(self, sequence: K, table: list[int]) -> None:
        self._tables[sequence] = table
        self._places[sequence] = self._rows.enter(table)

    def _take(self) -> int:
        block = self._free.pop()
        self._uses[block] = 1
        return block


class _Rows:
    """Block tables as rows of one array, from which those of a batch are taken at once."""

    def __init__(self, columns: int) -> None:
        self.blocks = np.full((64, columns), NULL_BLOCK, dtype=np.int32)
        self.counts = np.zeros(64, dtype=np.int64)
        self._free = list(range(63, -1, -1))

    def enter(self, table: list[int]) -> int:
        """Write a table down; returns its place."""
        if not self._free:
            before = len(self.blocks)
            self.blocks = np.concatenate([self.blocks, np.full_like(self.blocks, NULL_BLOCK)])
            self.counts = np.concatenate([self.counts, np.zeros_like(self.counts)])
            self._free = list(range(2 * before - 1, before - 1, -1))
        place = self._free.pop()
        self.blocks[place, : len(table)] = table
        self.counts[place] = len(table)
        return place

    def put(self, place: int, column: int, block: int) -> None:
        """Add a block to a table."""
        self.blocks[place, column] = block
        self.counts[place] = column + 1

    def leave(self, place: int) -> None:
        """Forget a table."""
        self.blocks[place, : self.counts[place]] = NULL_BLOCK
        self._free.append(place)
