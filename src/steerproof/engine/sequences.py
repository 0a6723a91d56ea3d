"""Sequences: rows that have drawn the same tokens so far, and so are one computation.

The rows of one prompt under one adapter and one push are a sequence group: it begins as one
sequence. Its rows have the same past, so they have the same logits; only their noise differs. Where
they draw unlike tokens the sequence is forked, or after the prompt (`Rules.ahead`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from steerproof.engine.rows import Finish, Row
from steerproof.model.push import Where

Ending = Finish | Literal["not finite"]
"""Why a sequence has ended; also because its logits were not finite."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what its rows have drawn since."""

    rows: list[Row]
    """At least one; of one sequence group."""
    adapter: int
    """Slot of the adapter of all its rows."""
    tokens: list[int] = field(default_factory=list)
    """Drawn so far."""
    finish: Ending | None = None
    """Why it has ended; None while it goes on."""
    start: int = field(init=False)
    """Position of the last token of its prompt."""

    def __post_init__(self) -> None:
        """Note what does not change."""
        self.start = len(self.rows[0].prompt_ids) - 1

    @property
    def last(self) -> int:
        """The token to be fed next."""
        return self.tokens[-1] if self.tokens else self.rows[0].prompt_ids[-1]

    @property
    def position(self) -> int:
        """Position of the token to be fed next; so many keys and values have been written."""
        return self.start + len(self.tokens)

    @property
    def where(self) -> Where:
        """Where the token to be fed next stands."""
        return "generated" if self.tokens else "last_prompt"

    @property
    def turns(self) -> bool:
        """Whether its push acts on the token to be fed next and not on those after it, or not."""
        push = self.rows[0].push
        if push is None or self.tokens:
            return False
        return push.acts("last_prompt") != push.acts("generated")

    def apart(self) -> list["Sequence"]:
        """Leave its first row; each other forms a new sequence with the same past."""
        self.rows, others = self.rows[:1], self.rows[1:]
        return [Sequence([row], self.adapter, [*self.tokens]) for row in others]

    def fork(self, tokens: list[int]) -> list["Sequence"]:
        """Leave the rows that drew its first row's token; the others form new sequences.

        Args:
            tokens: What each of its rows drew; its own token is not appended yet.

        Returns:
            The new sequences, with their tokens appended.
        """
        groups: dict[int, list[Row]] = {}
        for row, token in zip(self.rows, tokens, strict=True):
            groups.setdefault(token, []).append(row)
        (_, self.rows), *others = groups.items()
        return [Sequence(rows, self.adapter, [*self.tokens, token]) for token, rows in others]


def sequence_groups(rows: Iterable[Row], adapter_slot: Callable[[Row], int]) -> list[Sequence]:
    """A sequence for each group of rows, in the order in which groups first appear.

    Args:
        rows: Nothing was drawn for them, or what was drawn is forgotten.
        adapter_slot: The slot of a row's adapter.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return [Sequence(members, adapter_slot(members[0])) for members in groups.values()]
