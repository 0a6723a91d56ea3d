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
    tables: list[list[int]]
    """Their block tables."""
    copies: Copies


@dataclass(slots=True, kw_only=True, eq=False)
class Decode:
    """Sequences that are each fed one token, ordered by adapter, and their rows, by sequence.

    One object serves step after step, until other sequences take part. Those that have ended stay
    until then, and are computed for nothing.
    """

    sequences: list[Sequence]
    tables: list[list[int]]
    """Their block tables, as they are now."""
    rows: list[Row]
    """All rows, sequence by sequence."""
    owners: np.ndarray
    """`[rows]`, the place of each row's sequence."""
    firsts: np.ndarray
    """`[sequences]`, the place of each sequence's first row."""
    positions: np.ndarray
    """`[sequences]`, of the token that each is fed next."""
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
        entering = np.flatnonzero((self.positions + later) % BLOCK_SIZE == 0).tolist()
        return [
            (place, sequence)
            for place in entering
            if (sequence := self.sequences[place]).finish is None
            and len(self.tables[place]) <= (sequence.position + later) // BLOCK_SIZE
        ]

    def grow(self, blocks: BlockManager[Sequence], wanting: list[tuple[int, Sequence]]) -> "Decode":
        """Give another block to these sequences; returns itself."""
        self.grown.clear()
        self.copies.clear()
        for place, sequence in wanting:
            column = len(blocks.table(sequence))
            self.grown.append((place, column, blocks.append(sequence)))
        return self

    @property
    def steady(self) -> bool:
        """Whether nothing that is drawn can change it: no push turns, and no row can part."""
        return not self.turns and len(self.rows) == len(self.sequences)

    def append(self, drawn: np.ndarray) -> tuple[list[Sequence], list[tuple[Sequence, Sequence]]]:
        """Append a token `[rows]` to every row that goes on.

        Returns:
            The sequences that went on, and, where their rows drew unlike tokens, each fork as
            parent and child.
        """
        self.positions += 1
        tokens = drawn[self.firsts]
        forks = []
        for place in np.unique(self.owners[drawn != tokens[self.owners]]).tolist():
            parent, first = self.sequences[place], int(self.firsts[place])
            if parent.finish is None:
                own = drawn[first : first + len(parent.rows)].tolist()
                forks += [(parent, child) for child in parent.fork(own)]
        went_on = []
        for sequence, token in zip(self.sequences, tokens.tolist(), strict=True):
            if sequence.finish is None:
                sequence.tokens.append(token)
                went_on.append(sequence)
        return went_on, forks


def decode_batch(sequences: list[Sequence], tables: list[list[int]]) -> Decode:
    """A batch of sequences, ordered by adapter, with their block tables."""
    counts = np.array([len(sequence.rows) for sequence in sequences])
    return Decode(
        sequences=sequences,
        tables=tables,
        rows=[row for sequence in sequences for row in sequence.rows],
        owners=np.repeat(np.arange(len(sequences)), counts),
        firsts=counts.cumsum() - counts,
        positions=np.array([sequence.position for sequence in sequences]),
        turns=any(sequence.turns for sequence in sequences),
    )
