"""Who is let in: waiting groups, as long as rows, blocks and one forward pass have room for them.

An admission is a guess at how long rows will become.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from steerproof.engine.blocks import blocks_of
from steerproof.engine.rows import Row
from steerproof.engine.sequences import Ending, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a scheduler keeps to."""

    room: int
    """Rows in flight at once, as long as groups are no larger."""
    most: int
    """Rows that the largest group may make of them, as it goes in whole."""
    longest: int
    """Positions of the longest row, prompt and answer."""
    prompt_tokens: int
    """Most prompt tokens in one forward pass, as long as a prompt has no more."""
    finish: Callable[[Sequence], Ending | None]
    """Why a sequence that was just given a token has ended; None if it goes on."""
    adapter_slot: Callable[[Row], int]
    ahead: bool
    """Whether steps are launched before the last one's tokens are read. A GPU waits for new tables:
    so rows of a group then part at once, and not one after another."""


# Share of the rows in flight that end before others are let in.
_LEFT = 1 / 6


@dataclass(slots=True)
class Door:
    """Whether others are let in: until no more fit, and then when many rows have ended.

    Whoever comes makes new tables, and no step is launched ahead of a prefill.
    """

    _due: int = 0
    """Rows that have ended when it opens."""

    def is_open(self, waiting: Collection[Sequence], ended: int) -> bool:
        """Whether something waits, and may be tried after so many rows have ended in all."""
        return bool(waiting) and ended >= self._due

    def shut(self, ended: int, running: int) -> None:
        """No more fit, when so many rows have ended in all, and so many run."""
        self._due = ended + max(1, int(_LEFT * running))


def rows_of(sequences: Iterable[Sequence]) -> int:
    """The rows of sequences."""
    return sum([len(sequence.rows) for sequence in sequences])


def admissible(
    waiting: Iterable[Sequence],
    running: list[Sequence],
    rules: Rules,
    reach: int,
    blocks: int,
) -> int:
    """How many of the groups that wait are let in.

    Args:
        waiting: Groups, in the order of admission.
        running: The sequences that go on.
        rules: What to keep to.
        reach: Tokens that each row is expected to draw.
        blocks: Of the whole cache.
    """
    in_flight = rows_of(running)
    asked = _for_one_pass(waiting, rules.room // 4, rules.prompt_tokens)
    left = blocks - _taken(running, reach, rules.longest), rules.most - in_flight
    # A group that is alone is tried: if it does not fit, that is an error.
    return _fitting(asked, reach, rules.longest, *left) or (0 if running else 1)


def _for_one_pass(waiting: Iterable[Sequence], rows: int, tokens: int) -> list[Sequence]:
    """The first groups, until they have more than so many rows or tokens."""
    groups: list[Sequence] = []
    widest = taken = 0
    for group in waiting:
        widest = max(widest, group.position + 1)
        if taken > rows or (groups and widest * (len(groups) + 1) > tokens):
            break
        groups.append(group)
        taken += len(group.rows)
    return groups


def _taken(running: Collection[Sequence], reach: int, longest: int) -> int:
    """Blocks of sequences when each of their rows has gone its own way and drawn `reach` more."""
    rows = np.array([len(sequence.rows) for sequence in running], dtype=np.int64)
    drawn = np.array([len(sequence.tokens) for sequence in running], dtype=np.int64)
    start = np.array([sequence.start for sequence in running], dtype=np.int64)
    return int(rows @ blocks_of(np.minimum(longest, start + drawn + reach)))


def _fitting(groups: list[Sequence], reach: int, longest: int, blocks: int, rows: int) -> int:
    """How many of these groups fit into so many blocks and rows, at the length to be expected.

    Args:
        groups: In the order of admission.
        reach: Tokens that each row is expected to draw; it is expected to part from its group.
        longest: Positions of the longest row.
        blocks: That are left when all that runs has reached its length; less than 0 for none.
        rows: That are left.
    """
    for count, group in enumerate(groups):
        blocks -= len(group.rows) * blocks_of(min(longest, group.position + 1 + reach))
        rows -= len(group.rows)
        if blocks < 0 or rows < 0:
            return count
    return len(groups)
