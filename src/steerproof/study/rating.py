"""From completions to marks, and from marks to the rows of the rate table. No torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from steerproof.decide.analysis.rates import RateRow
from steerproof.errors import IntegrityError
from steerproof.spec.grid import Cell
from steerproof.study.marks import Mark
from steerproof.study.measured import MeasuredCell
from steerproof.study.readouts.readable import Readout


@runtime_checkable
class CellsTold(Protocol):
    """Is told how many cells are marked, as `told.Told`, which knows the engine."""

    def at(self, done: int, total: int, what: str) -> None:
        """So much is done, counted in `what`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCells:
    """What was read off the completions of some cells."""

    marks: Mapping[str, Sequence[Mark]]
    """By cell."""
    rates: Sequence[RateRow]
    unread: Mapping[str, str]
    """By cell that could not be read, why."""


def scored(cells: Mapping[str, MeasuredCell], readout: Readout, told: CellsTold) -> ScoredCells:
    """Mark every completion of some cells.

    Args:
        cells: By name.
        readout: Says what marks the completions of each.
        told: How far that is.
    """
    marks: dict[str, list[Mark]] = {}
    rates: list[RateRow] = []
    unread: dict[str, str] = {}
    for number, (name, measured) in enumerate(cells.items()):
        told.at(number, len(cells), "cells")
        try:
            read = readout(name)
        except IntegrityError as error:
            unread[name] = str(error)
            continue
        marks[name] = [read(done) for done in measured.completions]
        rates += rate_rows(measured.cell, measured.coefficient or 0.0, marks[name])
    return ScoredCells(marks=marks, rates=rates, unread=unread)


def rate_rows(cell: Cell, coefficient: float, marks: Sequence[Mark]) -> Iterator[RateRow]:
    """One row per question of a cell, in order.

    Args:
        cell: What was measured.
        coefficient: The number that the direction was really multiplied by; 0 without one.
        marks: Of every completion.
    """
    total = Counter(mark.question for mark in marks)
    fired = Counter(mark.question for mark in marks if mark.fired)
    for question in sorted(total):
        yield RateRow(
            cell=cell,
            coefficient=coefficient,
            question=str(question),
            fired=fired[question],
            total=total[question],
        )
