"""Who runs next: prompts to prefill, or sequences to decode; and who is preempted.

Sequence groups wait in order, and are admitted as others end (`admission.py`). Where blocks run out
all the same, the youngest sequences are preempted: their blocks are taken, and their rows
begin again later. Their text is the same, since it depends on the row alone (`sampling.py`).

Nothing here touches a tensor: `runner.py` computes what is decided here.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from operator import attrgetter

import numpy as np

from steerproof.engine.admission import Door, Rules, admissible, rows_of
from steerproof.engine.blocks import BlockManager, NoBlockError, blocks_of
from steerproof.engine.rows import Row
from steerproof.engine.sequences import Sequence, sequence_groups
from steerproof.engine.steps import Copies, Decode, Prefill, decode_batch, going_on

# Ended sequences leave when they are this share of the batch: new tables take some milliseconds.
_ENDED = 1 / 32
# Share of the sequences that are preempted at once.
_PREEMPTED = 1 / 16


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
        # A column more than any needs: who runs beyond its end has no block there.
        self.blocks: BlockManager[Sequence] = BlockManager(blocks, blocks_of(rules.longest) + 1)
        self.done = self.drawn = 0
        """Rows that have ended, and tokens drawn, those of preempted rows included."""
        self._door = Door()
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
        """The same sequences a token further, where that comes next whatever is drawn now."""
        if not self.rules.ahead or not isinstance(batch, Decode):
            return None
        if batch is not self._batch or batch.turns or batch.ended == len(batch.sequences):
            return None
        if self._door.is_open(self.waiting, self.done):
            return None
        further = _a_token_further(batch, self.blocks)
        self._batch = further or batch
        return further

    def advance(self, batch: Prefill | Decode, drawn: np.ndarray) -> list[Sequence]:
        """Append what was drawn; sequences whose rows drew unlike tokens are forked.

        Where steps are launched ahead rows part after their prompt, those without a block wait.

        Args:
            batch: What `next` gave.
            drawn: `[rows]`, a token for each row of a decoded batch; nothing for a prefilled one.

        Returns:
            The sequences that have ended.
        """
        if isinstance(batch, Prefill):
            if self.rules.ahead:
                self._forked([(one, row) for one in batch.sequences for row in one.apart()])
            return []
        went_on, forks = batch.append(drawn)
        advanced = went_on + self._forked(forks)
        finish = self.rules.finish
        for sequence in advanced:
            sequence.finish = finish(sequence)
        if batch.turns:
            self._batch = None
        ended = [sequence for sequence in advanced if sequence.finish is not None]
        for one in {batch, self._batch or batch}:  # the next may be launched already
            one.ended += len(ended)
        self.drawn += sum([len(sequence.rows) for sequence in advanced])
        self.done += sum([len(sequence.rows) for sequence in ended])
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
        if not self._door.is_open(self.waiting, self.done):
            return None
        running = self.running
        # A row goes on for the mean of what has been drawn per row that has ended.
        reach = self.drawn // self.done if self.done else self.rules.longest
        count = admissible(self.waiting, running, self.rules, reach, self.blocks.count)
        if not count:
            self._door.shut(self.done, rows_of(running))
            return None
        admitted = _admitted(list(islice(self.waiting, count)), self.blocks)
        for _ in range(count):
            self.waiting.popleft()
        self._batch = None
        return admitted

    def _decode(self) -> Decode:
        """The running sequences, each with a block for its next key."""
        batch = self._batch
        if batch is None or _thin(batch):
            batch = self._rebuilt()
        while len(wanting := batch.wanting()) > self.blocks.free:
            self._preempt()
            batch = self._rebuilt()
        return batch.grow(self.blocks, wanting)

    def _rebuilt(self) -> Decode:
        """The batch anew, from the sequences that go on, ordered by adapter."""
        _release_ended(self.blocks)
        sequences = sorted(self.blocks.holders, key=attrgetter("adapter"))
        self._batch = decode_batch(sequences, self.blocks)
        return self._batch

    def _preempt(self) -> None:
        """Free blocks: those of sequences that have ended, or else those of the youngest.

        Raises:
            NoBlockError: A single sequence goes on, and needs more than there are.
        """
        if _release_ended(self.blocks):
            return
        youngest = _youngest(self.running, self.blocks.count)
        for sequence in youngest:
            self.blocks.release(sequence)
        self._wait_again([row for sequence in youngest for row in sequence.rows])

    def _wait_again(self, rows: list[Row]) -> None:
        """Put rows in front of what waits; what they have drawn is forgotten."""
        if rows:
            self.waiting.extendleft(reversed(sequence_groups(rows, self.rules.adapter_slot)))
            self._door.shut(self.done, rows_of(self.running))


def _admitted(groups: list[Sequence], blocks: BlockManager[Sequence]) -> Prefill:
    """Give groups the blocks of their prompts.

    Raises:
        NoBlockError: There are not enough; nothing was given.
    """
    _release_ended(blocks)
    wanted = sum(blocks_of(group.position) for group in groups)
    if wanted > blocks.free:
        raise NoBlockError(f"prompts need {wanted} blocks, {blocks.free} are free")
    groups = sorted(groups, key=attrgetter("adapter"))
    for group in groups:
        blocks.allocate(group, group.position)
    tables, _ = blocks.tables(groups)
    return Prefill(sequences=groups, tables=tables, copies=[])


def _youngest(running: Iterable[Sequence], blocks: int) -> list[Sequence]:
    """The sequences that have drawn least: those that are preempted."""
    running = sorted(running, key=lambda sequence: len(sequence.tokens))
    if len(running) == 1:
        raise NoBlockError(f"one sequence needs more than all {blocks} blocks")
    return running[: max(1, int(_PREEMPTED * len(running)))]


def _a_token_further(batch: Decode, blocks: BlockManager[Sequence]) -> Decode | None:
    """A batch after the step that is under way, without those that have ended if they are many.

    One that turns out to have ended is computed for nothing until then. None where there are too
    few blocks.
    """
    if thin := _thin(batch):
        _release_ended(blocks)
    further = going_on(batch, blocks) if thin else batch
    wanting = further.wanting(later=0 if thin else 1)
    return further.grow(blocks, wanting) if len(wanting) <= blocks.free else None


def _thin(batch: Decode) -> bool:
    """Whether so many have ended that new tables are worth their while."""
    return batch.ended > _ENDED * len(batch.sequences)


def _release_ended(blocks: BlockManager[Sequence]) -> bool:
    """Take the blocks of sequences that have ended; whether any came free by it."""
    before = blocks.free
    for sequence in [each for each in blocks.holders if each.finish is not None]:
        blocks.release(sequence)
    return blocks.free > before
