"""The rate table: how often each cell fired, and the arrays made of it.

A row counts the completions of one (cell, question); a row without a question holds the cell's
total. A cell that is not in the table is absent. It is never zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.resampling import Counts
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell, CellKind


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRow:
    """One line of the table."""

    cell: Cell
    """What was measured."""
    coefficient: float
    """Number the direction was really multiplied by; 0 without a direction."""
    question: str | None
    """Index or id of the question; none for the cell's total."""
    fired: int
    """Completions with the marker."""
    total: int
    """Completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellCounts:
    """All that the table says of one cell."""

    coefficient: float
    questions: tuple[str, ...] | None
    """Question ids in order; none where only the cell's total is known."""
    fired: tuple[int, ...]
    """Per question, or one total."""
    total: tuple[int, ...]
    """Per question, or one total."""

    @property
    def rate(self) -> float:
        """Sum of fired over sum of total."""
        return sum(self.fired) / sum(self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTable:
    """Counts by cell, in the order of the table."""

    cells: Mapping[Cell, CellCounts] = field(default_factory=dict)

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms with at least one cell, in the order of the table."""
        return tuple(dict.fromkeys(cell.arm for cell in self.cells))


def table_of(rows: Iterable[RateRow]) -> RateTable:
    """Group rows by cell, questions in natural order (2 before 10).

    The rows are trusted; `rates_csv.read_rates` is what checks them.
    """
    grouped: dict[Cell, list[RateRow]] = {}
    for row in rows:
        grouped.setdefault(row.cell, []).append(row)
    return RateTable(cells={cell: _cell_counts(rows) for cell, rows in grouped.items()})


def of_seed(table: RateTable, experiment: Experiment, seed: int) -> RateTable:
    """The part of a table that is of one training seed, as if it were the experiment's own.

    Cells of an untrained arm are of every seed.
    """
    wanted = None if seed == experiment.seed else seed
    trained = {arm.name for arm in experiment.adapter_arms}
    cells = {
        replace(cell, seed=None): counts
        for cell, counts in table.cells.items()
        if cell.seed == wanted or cell.arm not in trained
    }
    return RateTable(cells=cells)


def _cell_counts(rows: list[RateRow]) -> CellCounts:
    ordered = sorted(rows, key=lambda row: _natural(row.question or ""))
    known = tuple(row.question for row in ordered if row.question is not None)
    return CellCounts(
        coefficient=ordered[0].coefficient,
        questions=known or None,
        fired=tuple(row.fired for row in ordered),
        total=tuple(row.total for row in ordered),
    )


def _natural(question: str) -> tuple[int, int, str]:
    whole = question.isascii() and question.isdigit()
    return (0, int(question), "") if whole else (1, 0, question)


def lookup(table: RateTable, kind: CellKind, persona: str) -> CellCounts | None:
    """The counts of one persona's cell, or None if it was not measured."""
    return table.cells.get(kind.cell(persona))


def cell_rates(
    table: RateTable, kind: CellKind, personas: Iterable[str]
) -> Float[np.ndarray, " personas"]:
    """One rate per persona; NaN where the cell was not measured."""
    counts = (lookup(table, kind, persona) for persona in personas)
    return np.array([np.nan if cell is None else cell.rate for cell in counts])


def cell_counts(
    table: RateTable, kind: CellKind, personas: Iterable[str]
) -> tuple[Counts, tuple[tuple[str, ...], ...]] | None:
    """Counts by persona and question, and the question ids of every persona.

    Returns:
        None if a persona's cell is missing or has no questions: then nothing can be resampled.
    """
    cells = [lookup(table, kind, persona) for persona in personas]
    known = [(c, c.questions) for c in cells if c is not None and c.questions is not None]
    if len(known) < len(cells) or not known:
        return None
    questions = np.array([len(ids) for _, ids in known])
    fired = np.zeros((len(known), int(questions.max())))
    total = np.zeros_like(fired)
    for place, (cell, ids) in enumerate(known):
        fired[place, : len(ids)] = cell.fired
        total[place, : len(ids)] = cell.total
    counts = Counts(fired=fired, total=total, questions=questions)
    return counts, tuple(ids for _, ids in known)
