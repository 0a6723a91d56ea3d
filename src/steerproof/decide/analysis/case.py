"""One rate table under one experiment: which rates each number is made of, and their draws."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.kinds import bridge_kind
from steerproof.decide.analysis.rates import RateTable, cell_counts, cell_rates, lookup
from steerproof.decide.analysis.resampling import (
    Counts,
    Interval,
    Resampling,
    percentile_interval,
    rate_draws,
)
from steerproof.decide.analysis.statistics import is_constant
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import CellKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A kind of cell that can be resampled, for all headline personas."""

    counts: Counts
    labels: tuple[tuple[str, ...], ...]
    """Question ids by persona; equal labels mean paired draws."""
    draws: Float[np.ndarray, "personas iterations"]
    """Rates in every resample of the questions."""


class ResampleCache:
    """Resampled rates by kind of cell, each drawn once: every number uses the same resamples."""

    def __init__(self, table: RateTable, personas: tuple[str, ...], plan: Resampling) -> None:
        self._table = table
        self._personas = personas
        self._plan = plan
        self._drawn: dict[CellKind, Sampled | None] = {}

    def of(self, kind: CellKind) -> Sampled | None:
        """The draws of a kind of cell; None if a persona or its questions are missing."""
        if kind not in self._drawn:
            counted = cell_counts(self._table, kind, self._personas)
            self._drawn[kind] = counted and Sampled(
                counts=counted[0], labels=counted[1], draws=rate_draws(counted[0], self._plan)
            )
        return self._drawn[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is judged: a table under an experiment, with the resamples that its numbers share."""

    table: RateTable
    experiment: Experiment
    plan: Resampling
    draws: ResampleCache

    @property
    def personas(self) -> tuple[str, ...]:
        """Headline personas."""
        return self.experiment.headline

    @property
    def bridge(self) -> CellKind:
        """The reference ranking."""
        return bridge_kind(self.experiment)

    @property
    def kinds(self) -> tuple[CellKind, ...]:
        """Kinds of cell that the table has of headline personas, in the table's order."""
        measured = (c.kind for c in self.table.cells if c.plain and c.persona in self.personas)
        return tuple(dict.fromkeys(measured))


def case_of(table: RateTable, experiment: Experiment) -> Case:
    """A table under an experiment, before anything is drawn.

    Args:
        table: Rates, checked against the experiment.
        experiment: The registered numbers.
    """
    plan = Resampling(seed=experiment.seed, iterations=experiment.analysis.iterations)
    draws = ResampleCache(table, experiment.headline, plan)
    return Case(table=table, experiment=experiment, plan=plan, draws=draws)


def rates_of(case: Case, kind: CellKind | None) -> Float[np.ndarray, " personas"]:
    """Rates of the headline personas; NaN where missing."""
    if kind is None:
        return np.full(len(case.personas), np.nan)
    return cell_rates(case.table, kind, case.personas)


def totals_of(case: Case, kind: CellKind | None) -> Float[np.ndarray, " personas"]:
    """Completions of the headline personas; 0 where missing."""
    cells = [None if kind is None else lookup(case.table, kind, p) for p in case.personas]
    return np.array([0.0 if cell is None else float(sum(cell.total)) for cell in cells])


def paired_draws(case: Case, left: CellKind, right: CellKind) -> tuple[Sampled, Sampled] | str:
    """Two kinds of cell resampled on the same questions, or why they cannot be."""
    first, second = case.draws.of(left), case.draws.of(right)
    for kind, drawn in ((left, first), (right, second)):
        if drawn is None:
            return no_resampling(case, kind)
    if first is None or second is None or first.labels != second.labels:
        return f"{left.name} and {right.name} were not asked the same questions: not paired"
    return first, second


def no_resampling(case: Case, kind: CellKind) -> str:
    """Why a kind of cell cannot be resampled."""
    only_totals = f"the table has only totals for {kind.name}: no questions to resample"
    return lacking(case, kind) or only_totals


def lacking(case: Case, kind: CellKind) -> str | None:
    """Which headline personas have no rate in a kind of cell; None if all have one."""
    missing = missing_personas(case, kind)
    return f"no rate of {kind.name} for {', '.join(missing)}" if missing else None


def missing_personas(case: Case, *kinds: CellKind) -> tuple[str, ...]:
    """Headline personas without a rate in at least one of the kinds of cell."""
    return tuple(
        persona
        for persona in case.personas
        if any(lookup(case.table, kind, persona) is None for kind in kinds)
    )


def interval_of(case: Case, draws: Float[np.ndarray, " iterations"]) -> Interval:
    """The registered percentile interval of some draws."""
    analysis = case.experiment.analysis
    return percentile_interval(
        draws, confidence=analysis.confidence, max_undefined=analysis.max_undefined
    )


def undefined_reason(case: Case, interval: Interval) -> str:
    """Why too many resamples had no value."""
    allowed = case.experiment.analysis.max_undefined
    return (
        f"{int(interval.undefined)} of {case.plan.iterations} resamples had no rho "
        f"({float(interval.share):.1%}, allowed {allowed:.1%}): rates too often constant"
    )


def why_undefined(case: Case, kind: CellKind) -> str | None:
    """What is wrong with a kind of cell: missing personas, or a constant rate."""
    if len(missing_personas(case, kind)) == len(case.personas):
        return f"no cells of {kind.name}"
    if reason := lacking(case, kind):
        return reason
    values = rates_of(case, kind)
    return f"{kind.name} is {values[0]:.3g} for every persona" if is_constant(values) else None
