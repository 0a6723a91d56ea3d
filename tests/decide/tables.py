"""Rate tables for tests: ten headline personas, twenty questions, five samples, exact totals."""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from steerproof.decide.analysis.rates import CellCounts, RateRow, RateTable
from steerproof.spec.experiment import Experiment, Generation, Persona, Questions
from steerproof.spec.grid import Cell, CellKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.strength import Strength
from tests.experiments import small_experiment

TEN = tuple(f"p{i}" for i in range(10))
RISING = tuple(0.05 + 0.09 * i for i in range(10))
FLAT = (0.0,) * 10


def ten_personas(analysis: AnalysisSettings | None = None, **changes: object) -> Experiment:
    """The small experiment with ten headline personas and twenty evaluation questions."""
    fields: dict[str, object] = {
        "personas": (
            *(Persona(name=name, prompt=f"You are {name}.") for name in TEN),
            Persona(name="helpful_assistant", prompt="You help.", headline=False),
        ),
        "questions": Questions(
            evaluation=tuple(f"Question {i}?" for i in range(20)),
            training=tuple(f"Training {i}?" for i in range(4)),
            directions=("Why sing?", "Why run?"),
        ),
        "generation": Generation(samples=5, max_new_tokens=8),
        "analysis": analysis or AnalysisSettings(iterations=1000),
    }
    return small_experiment(**{**fields, **changes})


def spread(rate: float, questions: int = 20, samples: int = 5) -> list[int]:
    """`round(rate * 100)` completions spread as evenly over the questions as they go."""
    fired = round(rate * questions * samples)
    return [fired // questions + (i < fired % questions) for i in range(questions)]


def rows_of(kind: CellKind, rates: Mapping[str, float]) -> list[RateRow]:
    """Rows of one kind of cell, evenly spread over the questions."""
    number = kind.strength.number
    return [
        RateRow(
            cell=cell_of(kind, persona),
            coefficient=number,
            question=str(i),
            fired=fired,
            total=5,
        )
        for persona, rate in rates.items()
        for i, fired in enumerate(spread(rate))
    ]


def cell_of(kind: CellKind, persona: str) -> Cell:
    """A kind of cell for one persona."""
    return Cell(persona=persona, **{f.name: getattr(kind, f.name) for f in fields(kind)})


def steered(arm: str, strength: str, prompt: str = "neutral") -> CellKind:
    """A steered cell of one of the small experiment's arms."""
    return CellKind(
        arm=arm,
        prompt="persona" if prompt == "persona" else "neutral",
        direction="isotropic" if arm == "A-iso" else "centroid",
        layer=0 if arm == "A-L10" else 1,
        strength=Strength.parse(strength),
    )


SHUFFLED = (0.3, 0.1, 0.5, 0.2, 0.0, 0.4, 0.6, 0.15, 0.55, 0.25)
"""No order in common with RISING: rho = 0.26."""


def supported() -> dict[CellKind, tuple[float, ...]]:
    """Rates of a table in which everything that H1 asks for holds."""
    rising = tuple(0.04 + 0.08 * i for i in range(10))
    kinds: dict[CellKind, tuple[float, ...]] = {
        CellKind(arm="C", prompt="persona"): RISING,
        CellKind(arm="C", prompt="neutral"): FLAT,
        CellKind(arm="A", prompt="neutral"): FLAT,
        CellKind(arm="A", prompt="persona"): tuple(r / 2 for r in RISING),
        steered("A", "c=+2"): rising,
        steered("A", "ratio=+0.2"): tuple(r / 2 for r in rising),
        steered("A", "ratio=-0.2"): FLAT,
        steered("A", "c=+2", "persona"): tuple(r / 2 + 0.1 for r in RISING),
        steered("C", "c=+2"): FLAT,
        steered("C", "ratio=+0.2"): FLAT,
        steered("C", "ratio=-0.2"): FLAT,
        steered("C", "c=+2", "persona"): RISING,
        steered("A-iso", "c=+2"): tuple(r / 6 for r in SHUFFLED),
        steered("A-iso", "ratio=+0.2"): tuple(r / 6 for r in SHUFFLED),
        steered("A-L10", "c=+2"): SHUFFLED,
        steered("A-L10", "ratio=+0.2"): SHUFFLED,
    }
    return kinds


def table(kinds: Mapping[CellKind, tuple[float, ...]], *, questions: bool = True) -> RateTable:
    """A table of the ten personas; NaN leaves a cell out."""
    cells = {
        cell_of(kind, persona): counted(kind, rate, questions=questions)
        for kind, rates in kinds.items()
        for persona, rate in zip(TEN, rates, strict=True)
        if not np.isnan(rate)
    }
    return RateTable(cells=cells)


def counted(kind: CellKind, rate: float, *, questions: bool) -> CellCounts:
    """Twenty questions of five samples, or their total."""
    fired = spread(rate)
    number = kind.strength.number
    return CellCounts(
        coefficient=number,
        questions=tuple(str(i) for i in range(20)) if questions else None,
        fired=tuple(fired) if questions else (sum(fired),),
        total=(5,) * 20 if questions else (100,),
    )
