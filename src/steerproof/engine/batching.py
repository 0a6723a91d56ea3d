"""Sequence groups completed step by step: the scheduler decides, the runner computes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from steerproof.engine.admission import Rules
from steerproof.engine.blocks import BLOCK_SIZE, blocks_of
from steerproof.engine.memory import pass_tokens
from steerproof.engine.runner import Choose, Pending, Runner
from steerproof.engine.scheduler import Scheduler
from steerproof.engine.sequences import Ending, Sequence, sequence_groups
from steerproof.engine.steps import Decode, Prefill
from steerproof.engine.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What there is room for."""

    rows: int
    """In flight at once."""
    positions: int
    """Of all rows together, whose keys and values fit into memory."""
    longest: int
    """Positions of the longest row, prompt and answer."""

    def halved(self, in_flight: int) -> "Room":
        """Room for half as much, and for at most half of the rows that were in flight."""
        rows = max(1, min(self.rows, in_flight or self.rows) // 2)
        return replace(self, rows=rows, positions=max(1, self.positions // 2))


class Batching:
    """Sequence groups that are completed step by step, with the memory at hand."""

    def __init__(
        self,
        subject: Subject,
        groups: list[Sequence],
        room: Room,
        finish: Callable[[Sequence], Ending | None],
        choose: Choose,
        *,
        ahead: bool = False,
    ) -> None:
        """Reserve a cache with as many blocks as fit and can be of use.

        Args:
            subject: Its adapters and its steering must be attached.
            groups: What waits.
            room: What there is room for.
            finish: Why a sequence that was just given a token has ended; None if it goes on.
            choose: Draws the tokens.
            ahead: Launch a step before the last one's tokens are read. Then `choose` may not look
                at what was drawn, rows are computed each by itself, and a GPU does not wait for
                the host.
        """
        longest = room.longest
        rows = max([room.rows, *(len(group.rows) for group in groups)])
        blocks = min(max(1, room.positions // BLOCK_SIZE), rows * blocks_of(longest))
        self.runner = Runner(subject, choose, rows=rows, blocks=blocks, longest=longest)
        rules = Rules(
            room=room.rows,
            most=rows,
            longest=longest,
            prompt_tokens=pass_tokens(subject.base.device, subject.base.hidden_size),
            finish=finish,
            adapter_slot=subject.adapter_slot,
            ahead=ahead,
        )
        self.scheduler = Scheduler(groups, blocks, rules)
        self._launched: _Launched | None = None

    @property
    def at_work(self) -> bool:
        """Whether anything waits or runs: asked before every step, so nothing is listed."""
        waiting, held = self.scheduler.waiting, self.scheduler.blocks.holders
        return bool(waiting) or any(sequence.finish is None for sequence in held)

    @property
    def rows_running(self) -> int:
        """Rows in flight."""
        return sum(len(sequence.rows) for sequence in self.scheduler.running)

    def unfinished(self) -> list[Sequence]:
        """The groups that run, to begin again, and those that wait."""
        rows = [row for sequence in self.scheduler.running for row in sequence.rows]
        return [*sequence_groups(rows, self.scheduler.rules.adapter_slot), *self.scheduler.waiting]

    def step(self) -> list[Sequence]:
        """Prefill or decode once; returns the sequences that have ended."""
        batch, tokens = self._launched or self._launch(self.scheduler.next())
        further = self.scheduler.ahead(batch)
        self._launched = None if further is None else self._launch(further)
        return self.scheduler.advance(batch, tokens())

    def _launch(self, batch: Prefill | Decode) -> "_Launched":
        return batch, self.runner.launch(batch)


_Launched = tuple[Prefill | Decode, Pending]
