"""One rate table under one experiment: which cells each number is made of, and their draws."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.kills import Flag
from steerproof.decide.analysis.rates import (
    CellKind,
    RateTable,
    cell_counts,
    cell_rates,
    lookup,
)
from steerproof.decide.analysis.resampling import (
    Counts,
    Interval,
    Resampling,
    percentile_interval,
    rate_draws,
)
from steerproof.decide.analysis.rule import Limits
from steerproof.spec.experiment import DirectionKind, Experiment
from steerproof.spec.strength import Strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A kind of cell that can be resampled, for all headline personas."""

    counts: Counts
    labels: tuple[tuple[str, ...], ...]
    """Question ids by persona; equal labels mean paired draws."""
    draws: Float[np.ndarray, "personas iterations"]
    """Rates in every resample of the questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A table, an experiment, and the resamples that all their numbers share."""

    table: RateTable
    experiment: Experiment
    plan: Resampling
    sampled: dict[CellKind, Sampled | None] = field(default_factory=dict)
    """Draws made so far, by kind of cell."""

    @property
    def personas(self) -> tuple[str, ...]:
        """Headline personas."""
        return self.experiment.headline

    @property
    def limits(self) -> Limits:
        """The registered numbers of the rule."""
        analysis = self.experiment.analysis
        return Limits(thresholds=analysis.thresholds, max_undefined=analysis.max_undefined)

    @property
    def bridge(self) -> CellKind:
        """The reference ranking: persona prompt, unsteered, in the bridge arm."""
        return CellKind(arm=self.experiment.analysis.bridge_arm, prompt="persona")


def arm_direction(experiment: Experiment, arm: str) -> DirectionKind:
    """The direction that an arm is steered with."""
    return experiment.arm(arm).steered_direction


def arm_layer(experiment: Experiment, arm: str) -> int:
    """The block that an arm is steered at."""
    return experiment.layer(experiment.arm(arm).layer)


def steered_kind(study: Study, arm: str, strength: Strength) -> CellKind:
    """Neutral prompt, the arm's own direction and layer, at a strength."""
    return CellKind(
        arm=arm,
        prompt="neutral",
        direction=arm_direction(study.experiment, arm),
        layer=arm_layer(study.experiment, arm),
        strength=strength,
    )


def isotropic_kind(study: Study, arm: str, strength: Strength) -> CellKind | None:
    """The random direction that an arm's own is compared with.

    The arm's own isotropic cells where the table has any, else the control arm of the
    experiment. None for an arm that is itself steered with a random direction, or when the
    experiment names no control arm.
    """
    if arm_direction(study.experiment, arm) == "isotropic":
        return None
    own = CellKind(
        arm=arm,
        prompt="neutral",
        direction="isotropic",
        layer=arm_layer(study.experiment, arm),
        strength=strength,
    )
    if any(lookup(study.table, own, persona) for persona in study.personas):
        return own
    control = study.experiment.analysis.isotropic_arm
    return None if control is None else steered_kind(study, control, strength)


def sweep_kinds(study: Study, arm: str) -> tuple[CellKind, ...]:
    """Every strength that the table has for an arm's own direction and layer, neutral prompt."""
    direction, layer = arm_direction(study.experiment, arm), arm_layer(study.experiment, arm)
    fixed = (arm, "neutral", direction, layer)
    plain = (c for c in study.table.cells if c.plain)
    found = (c for c in plain if (c.arm, c.prompt, c.direction, c.layer) == fixed)
    return tuple(steered_kind(study, arm, s) for s in dict.fromkeys(c.strength for c in found))


def rates_of(study: Study, kind: CellKind | None) -> Float[np.ndarray, " personas"]:
    """Rates of the headline personas; NaN where missing."""
    if kind is None:
        return np.full(len(study.personas), np.nan)
    return cell_rates(study.table, kind, study.personas)


def totals_of(study: Study, kind: CellKind | None) -> Float[np.ndarray, " personas"]:
    """Completions of the headline personas; 0 where missing."""
    cells = [None if kind is None else lookup(study.table, kind, p) for p in study.personas]
    return np.array([0.0 if cell is None else float(sum(cell.total)) for cell in cells])


def sampled_cells(study: Study, kind: CellKind) -> Sampled | None:
    """Resampled rates of a kind of cell; None if a persona or its questions are missing."""
    if kind not in study.sampled:
        found = cell_counts(study.table, kind, study.personas)
        study.sampled[kind] = found and Sampled(
            counts=found[0], labels=found[1], draws=rate_draws(found[0], study.plan)
        )
    return study.sampled[kind]


def paired_draws(study: Study, left: CellKind, right: CellKind) -> tuple[Sampled, Sampled] | str:
    """Two kinds of cell resampled on the same questions, or why they cannot be."""
    first, second = sampled_cells(study, left), sampled_cells(study, right)
    for kind, found in ((left, first), (right, second)):
        if found is None:
            return no_resampling(study, kind)
    if first is None or second is None or first.labels != second.labels:
        return f"{left.name} and {right.name} were not asked the same questions: not paired"
    return first, second


def no_resampling(study: Study, kind: CellKind) -> str:
    """Why a kind of cell cannot be resampled."""
    missing = missing_personas(study, kind)
    if missing:
        return f"no rate of {kind.name} for {', '.join(missing)}"
    return f"the table has only totals for {kind.name}: no questions to resample"


def missing_personas(study: Study, *kinds: CellKind) -> tuple[str, ...]:
    """Headline personas without a rate in at least one of the kinds of cell."""
    return tuple(
        persona
        for persona in study.personas
        if any(lookup(study.table, kind, persona) is None for kind in kinds)
    )


def interval_of(study: Study, draws: Float[np.ndarray, " iterations"]) -> Interval:
    """The registered percentile interval of some draws."""
    analysis = study.experiment.analysis
    return percentile_interval(
        draws, confidence=analysis.confidence, max_undefined=analysis.max_undefined
    )


def undefined_reason(study: Study, interval: Interval) -> str:
    """Why too many resamples had no value."""
    allowed = study.experiment.analysis.max_undefined
    return (
        f"{int(interval.undefined)} of {study.plan.iterations} resamples had no rho "
        f"({float(interval.share):.1%}, allowed {allowed:.1%}): rates too often constant"
    )


def zero() -> Flag:
    """A flag that is false."""
    return np.zeros(())
