"""Which unit is about what.

Names are made here from what a unit is about, and never taken apart again: whoever needs the arm or
the persona of a unit has the `AdapterId` or the `Cell` that it was made from.
"""

from steerproof.run.graph.ids import UnitId
from steerproof.spec.grid import AdapterId, Cell

ANSWERS = UnitId("answers", "base")
"""What the base model says under the neutral prompt."""
COMMON = UnitId("answers", "common")
"""What it says to the evaluation questions: the same texts are read in every graded cell."""
SCORE = UnitId("score", "all")
"""The marks of every cell, and the rate table."""
GRADED = UnitId("graded", "all")
"""What was weighed where answers end, of all adapters."""
ANALYSIS = UnitId("analysis", "all")
"""Estimates and verdict."""


def directions_unit(layer: int) -> UnitId:
    """The directions of a block."""
    return UnitId("directions", f"L{layer}")


def dataset_unit(persona: str) -> UnitId:
    """The training rows of a persona."""
    return UnitId("dataset", persona)


def adapter_unit(adapter: AdapterId) -> UnitId:
    """The weights of an (arm, persona)."""
    return UnitId("adapter", adapter.name)


def slots_unit(adapter: AdapterId) -> UnitId:
    """What is weighed where answers end, in the graded cells of an (arm, persona)."""
    return UnitId("slots", adapter.name)


def cell_unit(cell: Cell) -> UnitId:
    """A measurement."""
    return UnitId("cell", cell.name)
