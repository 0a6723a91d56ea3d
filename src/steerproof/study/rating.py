"""From marks to the rows of the rate table. No torch."""

from collections import Counter
from collections.abc import Iterator, Sequence

from steerproof.decide.analysis.rates import RateRow
from steerproof.spec.grid import Cell
from steerproof.study.marks import Mark


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
