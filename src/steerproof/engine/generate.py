"""Completions of many cells in one batch: mixed adapters, directions, layers and prompts.

A row's text depends on the row alone (`sampling.py`), so how rows are put together is a matter of
speed only. Where memory runs out, half as much is in flight from then on, and the unfinished rows
start again: their text is the same.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steerproof.engine.batching import Batching, Room
from steerproof.engine.blocks import NoBlockError
from steerproof.engine.cache.attention import attending
from steerproof.engine.canary import Canary, canaries
from steerproof.engine.memory import out_of_memory, positions_within
from steerproof.engine.rows import Drawn, Row, RowFault
from steerproof.engine.runner import Choose, DecodeTensors
from steerproof.engine.sampling import sample
from steerproof.engine.sequences import Ending, Sequence, sequence_groups
from steerproof.engine.subject import Subject, attached, faults, prompt_fault, subject_of
from steerproof.errors import MachineError, ModelError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.steering import Push, SlotAudit
from steerproof.spec.experiment import Generation

# Rows in flight, where nothing is asked for.
_MOST_ROWS = 4096
_TOO_LITTLE = (
    "memory does not even suffice for one prompt and its samples: use a machine with more,"
    " a smaller model, or fewer new tokens"
)
_NOT_FINITE = (
    "{row.cell}, question {row.question}: the logits after {at} tokens are not finite: a push or an"
    " adapter is too large for this number type; lower the strength or use float32"
)
# What a push does is measured at every so many-th step: measuring it takes as long as pushing.
_AUDIT_EVERY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is in flight at once."""

    max_rows: int | None = None
    """Rows; beyond a few hundred more only help against per-step overheads. None takes 4,096."""
    kv_bytes: int | None = None
    """Keys and values; None takes half of a CPU's free memory, or 80 % of a GPU's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationProgress:
    """Where a call of `generate` stands."""

    done: int
    running: int
    waiting: int
    tokens: int
    """Tokens drawn, those of restarted rows included."""


OnProgress = Callable[[GenerationProgress], None]


def generate(
    base: Base,
    rows: Iterable[Row],
    settings: Generation,
    *,
    limits: Limits | None = None,
    on_progress: OnProgress | None = None,
    every: float = 0.0,
) -> Iterator[Drawn]:
    """Complete every row; completions come as rows end.

    `Engine` does the same, and tells what pushes did.

    Args:
        base: The frozen model; nothing is attached.
        rows: What to complete; each with its adapter and its push.
        settings: Temperature, nucleus and length (`samples` is not used: rows are spelt out).
        limits: How much is in flight.
        on_progress: Called after a step.
        every: Seconds between two calls of it at least.

    Raises:
        ModelError: A prompt does not fit the context, an adapter does not fit the base, or the
            model is of a kind that cannot be pooled.
        SteeringError: A push does not fit the base.
        MachineError: A single group of rows does not fit into memory.
    """
    engine = Engine(base, rows)
    return engine.complete(settings, limits=limits, on_progress=on_progress, every=every)


class Engine:
    """A base with rows, and with all adapters and pushes that these refer to, each put on once.

    A row that cannot be computed is told, and the others are: a failure belongs to its row.
    """

    def __init__(self, base: Base, rows: Iterable[Row], *, audit_every: int = _AUDIT_EVERY) -> None:
        """Load the adapters and make tables of the pushes; nothing is attached.

        Args:
            base: The frozen model.
            rows: What will be asked of it.
            audit_every: Measure what pushes do at every so many-th forward pass.
        """
        asked = tuple(rows)
        self.faults = faults(base, asked)
        """The rows whose prompt, adapter or push does not fit the base."""
        bad = {id(fault.row) for fault in self.faults}
        self.rows = tuple(row for row in asked if id(row) not in bad)
        """The others."""
        self.subject = subject_of(base, self.rows, audit_every=audit_every)

    def generate(
        self,
        settings: Generation,
        *,
        limits: Limits | None = None,
        on_progress: OnProgress | None = None,
        every: float = 0.0,
    ) -> Iterator[Drawn | RowFault]:
        """Complete every row; completions come as rows end, and faults where there is one.

        Until the iterator is exhausted or closed the model belongs to it: adapters and steering are
        attached, and its attention is replaced. Rows of one cell and question are best given
        together, and cells of one adapter one after another.

        Args:
            settings: Temperature, nucleus and length.
            limits: How much is in flight.
            on_progress: Called after a step.
            every: Seconds between two calls of it at least.

        Raises:
            ModelError: The model is of a kind that cannot be pooled.
            MachineError: A single group of rows does not fit into memory.
        """
        yield from self.faults
        sound = []
        for row in self.rows:
            fault = prompt_fault(self.subject.base, row, settings.max_new_tokens)
            if fault is None:
                sound.append(row)
            else:
                yield RowFault(row=row, error=fault)
        tally = _Tally(len(sound), on_progress, every)
        yield from _complete(self.subject, sound, settings, limits or Limits(), tally)

    def complete(
        self,
        settings: Generation,
        *,
        limits: Limits | None = None,
        on_progress: OnProgress | None = None,
        every: float = 0.0,
    ) -> Iterator[Drawn]:
        """Like `generate`, for whoever wants all rows or none.

        Raises:
            SteerproofError: A row cannot be completed.
        """
        for ended in self.generate(settings, limits=limits, on_progress=on_progress, every=every):
            if isinstance(ended, RowFault):
                raise ended.error
            yield ended

    def canaries(self, text: tuple[int, ...]) -> dict[str, Canary | SteerproofError]:
        """Score a fixed text in the pool and alone, under the first row of each cell, by cell.

        Returns:
            What was seen, or what is wrong with the cell, and with no other.
        """
        first: dict[str, Row] = {}
        for row in self.rows:
            first.setdefault(row.cell, row)
        seen = canaries(self.subject, list(first.values()), text)
        return dict(zip(first, seen, strict=True))

    def audit(self, push: Push) -> tuple[SlotAudit, ...]:
        """What each part of a push was measured to do so far, in canaries too.

        Raises:
            SteeringError: No row has this push.
        """
        return self.subject.audit(push)


def _complete(
    subject: Subject,
    rows: list[Row],
    settings: Generation,
    limits: Limits,
    tally: "_Tally",
) -> Iterator[Drawn | RowFault]:
    base = subject.base
    if not rows:
        return
    room = _room(base, rows, settings, limits)
    groups = sequence_groups(rows, subject.adapter_slot)
    groups.sort(key=lambda group: group.adapter)
    finish, choose = _ending(base, settings), _drawing(settings)
    ahead = base.device.type == "cuda"
    with attached(subject):
        while groups:
            batching = None
            try:
                batching = Batching(subject, groups, room, finish, choose, ahead=ahead)
                yield from _completions(batching, base, tally)
                return
            except (NoBlockError, torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if room.rows == 1:
                    raise MachineError(_TOO_LITTLE) from error
            room = room.halved(batching.rows_running if batching else 0)
            groups = batching.unfinished() if batching else groups
            del batching  # Its cache is freed before the next one is reserved.
            if base.device.type == "cuda":
                torch.cuda.empty_cache()


def _room(base: Base, rows: list[Row], settings: Generation, limits: Limits) -> Room:
    longest = settings.max_new_tokens + max(len(row.prompt_ids) for row in rows)
    return Room(
        rows=limits.max_rows or _MOST_ROWS,
        positions=positions_within(base, longest, limits.kv_bytes),
        longest=longest,
    )


def _ending(base: Base, settings: Generation) -> Callable[[Sequence], Ending | None]:
    eos_ids, most = base.eos_ids, settings.max_new_tokens

    # Called for every token that is drawn.
    def finish(sequence: Sequence) -> Ending | None:
        token = sequence.tokens[-1]
        if token < 0:
            return "not finite"
        if token in eos_ids:
            return "eos"
        return "length" if len(sequence.tokens) == most else None

    return finish


def _drawing(settings: Generation) -> Choose:
    def choose(logits: Tensor, batch: DecodeTensors) -> Tensor:
        drawing = (batch.seeds, batch.steps, settings.temperature, settings.top_p)
        return sample(logits, *drawing, owners=batch.owners)

    return choose


def _completions(batching: Batching, base: Base, tally: "_Tally") -> Iterator[Drawn | RowFault]:
    """What the rows become, as they end."""
    scheduler = batching.scheduler
    with attending(base.model, batching.runner.cache.attend):
        while batching.at_work:
            drawn, ended = scheduler.drawn, batching.step()
            for sequence in ended:
                yield from _completed(sequence)
            tally.step(lambda: batching.rows_running, ended, scheduler.drawn - drawn)


def _completed(sequence: Sequence) -> Iterator[Drawn | RowFault]:
    finish = sequence.finish
    assert finish is not None
    tokens = tuple(sequence.tokens[:-1] if finish == "eos" else sequence.tokens)
    for row in sequence.rows:
        if finish == "not finite":
            yield RowFault(
                row=row, error=ModelError(_NOT_FINITE.format(row=row, at=len(tokens) - 1))
            )
        else:
            yield Drawn(row=row, token_ids=tokens, finish=finish)


class _Tally:
    """Counts what was done, whatever had to begin again."""

    def __init__(self, rows: int, report: OnProgress | None, every: float) -> None:
        self._rows, self._report, self._every = rows, report, every
        self._done = self._tokens = 0
        self._due = 0.0

    def step(self, running: Callable[[], int], ended: Iterable[Sequence], drawn: int) -> None:
        """A step was done; `running` counts the rows in flight, if anybody is told."""
        self._done += sum(len(sequence.rows) for sequence in ended)
        self._tokens += drawn
        if self._report is not None and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            rows = running()  # goes through all of them
            waiting = self._rows - self._done - rows
            self._report(
                GenerationProgress(
                    done=self._done, running=rows, waiting=waiting, tokens=self._tokens
                )
            )
