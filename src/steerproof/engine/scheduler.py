"""Who runs next: prompts to prefill, or sequences to decode; and who is preempted.

Sequence groups wait in order. They are admitted as others end, as long as rows, blocks and one
forward pass have room for them; an admission is a guess at how long rows will become. Where blocks
run out all the same, the youngest sequences are preempted: their blocks are taken, and their rows
begin again later. Their text is the same, since it depends on the row alone (`sampling.py`).

Nothing here touches a tensor: `runner.py` computes what is decided here.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from steerproof.engine.blocks import BlockManager, NoBlockError, blocks_of
from steerproof.engine.rows import Row
from steerproof.engine.sequences import Ending, Sequence, sequence_groups
from steerproof.engine.steps import Copies, Decode, Prefill, decode_batch

# Prompt tokens in one forward pass: more would only cost memory.
_PROMPT_TOKENS = 8192
# Ended sequences leave when they are this share of the batch: new tables take some milliseconds.
_REBUILD = 1 / 32
# Share of the sequences that are preempted at once.
_PREEMPTED = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a scheduler keeps to."""

    room: int
    """Rows in flight at once, as long as groups are no larger."""
    most: int
    """Rows that the largest group may make of them, as it goes in whole."""
    longest: int
    """Positions of the longest row, prompt and answer."""
    finish: Callable[[Sequence], Ending | None]
    """Why a sequence that was just given a token has ended; None if it goes on."""
    adapter_slot: Callable[[Row], int]
    padded: Callable[[int], int] | None
    """The size to which a batch of so many sequences is padded; None where none is."""


class Scheduler:
    """Waiting and running sequences, and the blocks that these hold."""

    def __init__(self, groups: Iterable[Sequence], blocks: int, rules: Rules) -> None:
        """Nothing runs yet.

        Args:
            groups: What is to be completed, in order of admission.
            blocks: Blocks of the cache that may be given out.
            rules: What to keep to.
        """
        self.waiting = deque(groups)
        self.blocks: BlockManager[Sequence] = BlockManager(blocks)
        self.done = self.drawn = 0
        """Rows that have ended, and tokens drawn, those of preempted rows included."""
        self.rules = rules
        self._batch: Decode | None = None
        self._copies: Copies = []

    @property
    def running(self) -> list[Sequence]:
        """The sequences that go on, oldest first."""
        return [sequence for sequence in self.blocks.holders if sequence.finish is None]

    def next(self) -> Prefill | Decode:
        """What to compute next; there must be something that waits or runs.

        Raises:
            NoBlockError: A single group needs more blocks than there are.
        """
        batch = self._prefill() or self._decode()
        batch.copies.extend(self._copies)
        self._copies.clear()
        return batch

    def ahead(self, batch: Prefill | Decode) -> Decode | None:
        """The same batch a token further, where that is what comes next whatever is drawn now.

        It is then computed while the host deals with what was drawn; a sequence that turns out to
        have ended is computed once for nothing.

        Args:
            batch: What was launched last.
        """
        if not isinstance(batch, Decode) or batch is not self._batch or self._admits():
            return None
        if batch.turns or not batch.parted or _thin(batch, self.rules.padded):
            return None
        wanting = batch.wanting(later=1)
        if len(wanting) > self.blocks.free:
            return None
        return self._grown(batch, wanting)

    def advance(self, batch: Prefill | Decode, drawn: np.ndarray) -> list[Sequence]:
        """Append what was drawn; sequences whose rows drew unlike tokens are forked.

        Args:
            batch: What `next` gave.
            drawn: `[rows]`, a token for each row of a decoded batch; nothing for a prefilled one.

        Returns:
            The sequences that have ended.
        """
        if isinstance(batch, Prefill):
            return []
        went_on, forks = batch.append(drawn)
        advanced = went_on + self._forked(forks)
        for sequence in advanced:
            sequence.finish = self.rules.finish(sequence)
        if batch.turns:
            self._batch = None
        ended = [sequence for sequence in advanced if sequence.finish is not None]
        batch.ended += len(ended)
        self.drawn += sum(len(sequence.rows) for sequence in advanced)
        self.done += sum(len(sequence.rows) for sequence in ended)
        return ended

    def _forked(self, forks: list[tuple[Sequence, Sequence]]) -> list[Sequence]:
        """Give children blocks; preempts those for which there is none. Returns the others."""
        if not forks:
            return []
        if self.blocks.free < len(forks):
            _release_ended(self.blocks)
        forked, lost = [], []
        for parent, child in forks:
            try:
                copy = self.blocks.fork(parent, child, child.position)
            except NoBlockError:
                lost += child.rows
                continue
            self._copies += [copy] if copy else []
            forked.append(child)
        self._wait_again(lost)
        self._batch = None
        return forked

    def _prefill(self) -> Prefill | None:
        """Admit groups while rows, blocks and one forward pass have room; None if there is none."""
        if not self._admits():
            return None
        room, running = self.rules.room, self.running
        in_flight = sum(len(sequence.rows) for sequence in running)
        asked = _for_one_pass(self.waiting, room // 4)
        # A row goes on for the mean of what has been drawn per row that has ended.
        longest = self.rules.longest
        reach = self.drawn // self.done if self.done else longest
        left = self.blocks.count - _taken(running, reach, longest), self.rules.most - in_flight
        # A group that is alone is tried: if it does not fit, that is an error.
        count = _fitting(asked, reach, longest, *left) or (0 if running else 1)
        return self._admitted(asked[:count]) if count else None

    def _admits(self) -> bool:
        """Whether something waits, and enough rows have ended to let more in."""
        room = self.rules.room
        in_flight = sum(len(sequence.rows) for sequence in self.running) if self.waiting else room
        return room - in_flight >= max(1, room // 6)

    def _admitted(self, groups: list[Sequence]) -> Prefill:
        _release_ended(self.blocks)
        wanted = sum(blocks_of(group.position) for group in groups)
        if wanted > self.blocks.free:
            raise NoBlockError(f"prompts need {wanted} blocks, {self.blocks.free} are free")
        groups = sorted(groups, key=lambda group: group.adapter)
        for group in groups:
            self.waiting.popleft()
            self.blocks.allocate(group, group.position)
        self._batch = None
        tables = [self.blocks.table(group) for group in groups]
        return Prefill(sequences=groups, tables=tables, copies=[])

    def _decode(self) -> Decode:
        """The running sequences, each with a block for its next key."""
        batch = self._batch
        if batch is None or _thin(batch, self.rules.padded):
            batch = self._rebuilt()
        while len(wanting := batch.wanting()) > self.blocks.free:
            self._preempt()
            batch = self._rebuilt()
        return self._grown(batch, wanting)

    def _grown(self, batch: Decode, wanting: list[tuple[int, Sequence]]) -> Decode:
        """The batch, with another block for these of its sequences."""
        batch.grown.clear()
        batch.copies.clear()
        for place, sequence in wanting:
            column = len(self.blocks.table(sequence))
            batch.grown.append((place, column, self.blocks.append(sequence)))
        return batch

    def _rebuilt(self) -> Decode:
        """The batch anew, from the sequences that go on, ordered by adapter."""
        _release_ended(self.blocks)
        sequences = sorted(self.blocks.holders, key=lambda sequence: sequence.adapter)
        tables = [self.blocks.table(sequence) for sequence in sequences]
        self._batch = decode_batch(sequences, tables)
        return self._batch

    def _preempt(self) -> None:
        """Free blocks: those of sequences that have ended, or else those of the youngest.

        Raises:
            NoBlockError: A single sequence goes on, and needs more than there are.
        """
        before = self.blocks.free
        _release_ended(self.blocks)
        if self.blocks.free > before:
            return
        running = sorted(self.running, key=lambda sequence: len(sequence.tokens))
        if len(running) == 1:
            raise NoBlockError(f"one sequence needs more than all {self.blocks.count} blocks")
        youngest = running[: max(1, int(_PREEMPTED * len(running)))]
        for sequence in youngest:
            self.blocks.release(sequence)
        self._wait_again([row for sequence in youngest for row in sequence.rows])

    def _wait_again(self, rows: list[Row]) -> None:
        """Put rows in front of what waits; what they have drawn is forgotten."""
        self.waiting.extendleft(reversed(sequence_groups(rows, self.rules.adapter_slot)))


def _for_one_pass(waiting: Iterable[Sequence], rows: int) -> list[Sequence]:
    """The first groups, until they have more than so many rows, or tokens enough for one pass."""
    groups: list[Sequence] = []
    widest = taken = 0
    for group in waiting:
        widest = max(widest, group.position + 1)
        if taken > rows or (groups and widest * (len(groups) + 1) > _PROMPT_TOKENS):
            break
        groups.append(group)
        taken += len(group.rows)
    return groups


def _taken(running: Iterable[Sequence], reach: int, longest: int) -> int:
    """Blocks of sequences when each of their rows has gone its own way and drawn `reach` more."""
    return sum(
        len(sequence.rows) * blocks_of(min(longest, sequence.position + reach))
        for sequence in running
    )


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


def _thin(batch: Decode, padded: Callable[[int], int] | None) -> bool:
    """Whether so many have ended that new tables are worth their while."""
    count = len(batch.sequences)
    smaller = padded is not None and padded(count - batch.ended) < padded(count)
    return batch.ended > _REBUILD * count or smaller


def _release_ended(blocks: BlockManager[Sequence]) -> None:
    for sequence in [each for each in blocks.holders if each.finish is not None]:
        blocks.release(sequence)
