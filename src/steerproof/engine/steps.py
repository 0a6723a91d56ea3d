"""What one forward pass is over, as the scheduler hands it to the runner: no tensors."""

from dataclasses import dataclass, field

import numpy as np

from steerproof.engine.blocks import BLOCK_SIZE, BlockManager
from steerproof.engine.rows import Row
from steerproof.engine.sequences import Sequence

Copies = list[tuple[int, int]]
"""Blocks to be copied before anything is computed: from, to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """Sequences whose prompts are to be computed, all but the last token; ordered by adapter."""

    sequences: list[Sequence]
    tables: np.ndarray
    """`[sequences, columns]`, their block tables."""
    copies: Copies


@dataclass(slots=True, kw_only=True, eq=False)
class Decode:
    """Sequences that are each fed one token, ordered by adapter, and their rows, by sequence.

    One object serves step after step, until other sequences take part. Those that have ended stay
    until then, and are computed for nothing.
    """

    sequences: list[Sequence]
    tables: np.ndarray
    """`[sequences, columns]`, their block tables, as they are now."""
    held: np.ndarray
    """`[sequences]`, the blocks of each."""
    rows: list[Row]
    """All rows, sequence by sequence."""
    owners: np.ndarray
    """`[rows]`, the place of each row's sequence."""
    firsts: np.ndarray
    """`[sequences]`, the place of each sequence's first row."""
    positions: np.ndarray
    """`[sequences]`, of the token that each is fed next."""
    after: np.ndarray | None = None
    """`[sequences]`, their places in the batch before, whose tokens are fed though they were not
    read yet; None where what is fed is known."""
    turns: bool
    """After the next step some push begins or ends to act, so that rows are routed anew."""
    ended: int = 0
    """Of these sequences."""
    grown: list[tuple[int, int, int]] = field(default_factory=list)
    """What was added to tables since the last step: place of the sequence, column, block."""
    copies: Copies = field(default_factory=list)

    def wanting(self, later: int = 0) -> list[tuple[int, Sequence]]:
        """The sequences, with their places, that need another block for a key to come.

        Args:
            later: Of the next key, or of one so many after it.
        """
        full = np.flatnonzero(self.held * BLOCK_SIZE <= self.positions + later).tolist()
        every = ((place, self.sequences[place]) for place in full)
        return [(place, sequence) for place, sequence in every if sequence.finish is None]

    def grow(self, blocks: BlockManager[Sequence], wanting: list[tuple[int, Sequence]]) -> "Decode":
        """Give another block to these sequences; returns itself."""
        self.grown.clear()
        self.copies.clear()
        for place, sequence in wanting:
            column, block = int(self.held[place]), blocks.append(sequence)
            self.grown.append((place, column, block))
            self.tables[place, column] = block
            self.held[place] += 1
        return self

    def append(self, drawn: np.ndarray) -> tuple[list[Sequence], list[tuple[Sequence, Sequence]]]:
        """Append a token `[rows]` to every row that goes on in this batch.

        Returns:
            The sequences that went on, and, where their rows drew unlike tokens, each fork as
            parent and child.
        """
        self.positions += 1
        tokens = drawn[self.firsts]
        parting = drawn != tokens[self.owners]
        forks = []
        for place in np.unique(self.owners[parting]).tolist():
            if (parent := self.sequences[place]).finish is None:
                mine = drawn[self.owners == place].tolist()
                forks += [(parent, child) for child in parent.fork(mine)]
        went_on = []
        for sequence, token in zip(self.sequences, tokens.tolist(), strict=True):
            if sequence.finish is None:
                sequence.tokens.append(token)
                went_on.append(sequence)
        return went_on, forks


def decode_batch(sequences: list[Sequence], blocks: BlockManager[Sequence]) -> Decode:
    """A batch of sequences, ordered by adapter, that have these blocks."""
    tables, held = blocks.tables(sequences)
    counts = np.array([len(sequence.rows) for sequence in sequences])
    drawn = np.array([len(sequence.tokens) for sequence in sequences])
    return Decode(
        sequences=sequences,
        tables=tables,
        held=held,
        rows=[row for sequence in sequences for row in sequence.rows],
        owners=np.repeat(np.arange(len(sequences)), counts),
        firsts=counts.cumsum() - counts,
        positions=np.array([sequence.start for sequence in sequences]) + drawn,
        turns=any(sequence.turns for sequence in sequences if not sequence.tokens),
    )


def going_on(batch: Decode, blocks: BlockManager[Sequence]) -> Decode:
    """The sequences that go on, for the step after one that is under way; there is at least one.

    Args:
        batch: What is under way: its tokens are not read yet.
        blocks: Who has which.
    """
    places = [place for place, one in enumerate(batch.sequences) if one.finish is None]
    further = decode_batch([batch.sequences[place] for place in places], blocks)
    further.positions += 1
    further.after = np.array(places)
    return further
