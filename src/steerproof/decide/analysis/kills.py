"""The kill criteria: what each looks at, when it fires, and how it is said. One record a kill.

Each judges rates alone, over any batch of tables at once (one real table, or thousands of
simulated ones). To add one, write its function and its `Criterion` here and name it in
`REGISTERED`; a number that the experiment file may set is a field of `spec.Thresholds`. Rule,
registration text, objections and report take it from here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.flags import (
    Flag,
    Rates,
    all_present,
    at_least,
    both,
    flag,
    negated,
)
from steerproof.decide.analysis.statistics import (
    is_constant,
    mean_rate,
    pooled_half_width,
    spearman,
)
from steerproof.spec.grid import CellKind
from steerproof.spec.judging import AnalysisSettings

_ROUNDING = 1e-12
"""Slack of a comparison of a difference of two rounded numbers with a threshold."""
NOT_SPECIFIC = (
    "not specific: a random direction of the same size does as well, so the persona direction "
    "itself explains nothing"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCells:
    """The cells of one arm that its kills look at, each for all personas."""

    bridge: CellKind
    """Persona prompt, unsteered, in the bridge arm: the reference ranking."""
    steered: CellKind
    """Neutral prompt, primary strength."""
    unsteered: CellKind
    """Neutral prompt, no direction."""
    prompted: CellKind
    """Persona prompt, no direction."""
    prompted_steered: CellKind
    """Persona prompt, primary strength."""
    sweep: tuple[CellKind, ...]
    """Neutral prompt, every strength that the arm was steered with."""
    isotropic: CellKind | None
    """Neutral prompt, primary strength, a random direction of the same norm; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRates:
    """The rates of those cells."""

    bridge: Rates
    steered: Rates
    unsteered: Rates
    prompted: Rates
    prompted_steered: Rates
    sweep: Float[np.ndarray, "cells personas *batch"]
    isotropic: Rates
    steered_total: Float[np.ndarray, " personas"]
    """Completions behind `steered`."""
    isotropic_total: Float[np.ndarray, " personas"]
    """Completions behind `isotropic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One criterion of one arm: whether it fired, and on what numbers."""

    fired: Flag
    numbers: dict[str, Flag]
    """The numbers that decided it; NaN where undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One kill, as it is registered, judged and told."""

    name: str
    """Its name in files; also the outcome of a table that it refutes."""
    meaning: str
    """What it says of the arm, as the end of a sentence."""
    fires_when: Callable[[AnalysisSettings], str]
    """The condition in words, with its registered numbers."""
    judge: Callable[[ArmRates, AnalysisSettings], Kill]
    cells: Callable[[ArmCells], Sequence[CellKind | None]]
    """The cells that it cannot do without."""
    numbers: Mapping[str, str]
    """Names in words of the numbers that decide it."""
    rests_on_rho: bool
    """It waits until rho is known to be stable; one that counts rates does not."""
    precedence: int
    """Of several that fired, the lowest one names the outcome."""
    reading: str | None = None
    """What it means for the question; None for what every refutation means."""


def criteria() -> tuple[Criterion, ...]:
    """Every registered criterion, in the registered order."""
    return REGISTERED


def conditions(analysis: AnalysisSettings) -> tuple[tuple[str, str], ...]:
    """Every criterion's name, and when it fires, for the registration text."""
    return tuple((criterion.name, criterion.fires_when(analysis)) for criterion in criteria())


def kills(arm: ArmRates, analysis: AnalysisSettings) -> dict[str, Kill]:
    """All criteria of an arm.

    Args:
        arm: Rates over the headline personas.
        analysis: The registered thresholds and confidence.

    Returns:
        Kills by name, in the registered order.
    """
    return {criterion.name: criterion.judge(arm, analysis) for criterion in criteria()}


def _uniform_zero(arm: ArmRates, analysis: AnalysisSettings) -> Kill:
    """Steering elicits nothing: every steered cell under the neutral prompt is near zero.

    Cells with the persona prompt on are left out: there the prompt alone can fire the marker.
    """
    sweep, highest = arm.sweep, analysis.thresholds.uniform_zero_rate
    if not sweep.size:
        nothing = np.full(sweep.shape[2:], np.nan)
        return Kill(fired=nothing, numbers={"max_rate": nothing})
    largest = np.asarray(np.where(np.isnan(sweep), -np.inf, sweep).max(axis=(0, 1)))
    some_missing = np.isnan(sweep).any(axis=(0, 1))
    fired = flag(largest <= highest, unknown=some_missing & (largest <= highest))
    return Kill(fired=fired, numbers={"max_rate": np.where(largest < 0, np.nan, largest)})


_UNIFORM_ZERO = Criterion(
    name="uniform_zero",
    meaning="every steered cell of the arm stays at or below the floor",
    fires_when=lambda analysis: (
        f"every steered centroid cell has a rate <= {analysis.thresholds.uniform_zero_rate:g}"
    ),
    judge=_uniform_zero,
    cells=lambda arm: arm.sweep or (arm.steered,),
    numbers={"max_rate": "largest steered rate"},
    rests_on_rho=False,
    precedence=1,
)


def _baseline_rate_driven(arm: ArmRates, analysis: AnalysisSettings) -> Kill:
    """The ranking was there before steering: the unsteered rate predicts both others.

    An unsteered rate that is the same for every persona (often 0) ranks nothing and drives
    nothing: its correlations are undefined and the criterion does not fire.
    """
    limits = analysis.thresholds
    to_steered = spearman(arm.unsteered, arm.steered)
    to_bridge = spearman(arm.unsteered, arm.bridge)
    steered = at_least(to_steered, limits.baseline_steered, all_present(arm.unsteered, arm.steered))
    bridge = at_least(to_bridge, limits.baseline_bridge, all_present(arm.unsteered, arm.bridge))
    numbers = {"rho_baseline_steered": to_steered, "rho_baseline_bridge": to_bridge}
    flat = is_constant(arm.unsteered) & all_present(arm.unsteered)
    return Kill(fired=np.where(flat, 0.0, both(steered, bridge)), numbers=numbers)


_BASELINE_RATE_DRIVEN = Criterion(
    name="baseline_rate_driven",
    meaning="the unsteered rate already gives the ranking",
    fires_when=lambda analysis: (
        f"rho(unsteered neutral, steered) >= {analysis.thresholds.baseline_steered:g} and "
        f"rho(unsteered neutral, bridge) >= {analysis.thresholds.baseline_bridge:g}"
    ),
    judge=_baseline_rate_driven,
    cells=lambda arm: (arm.unsteered, arm.steered, arm.bridge),
    numbers={
        "rho_baseline_steered": "rho(unsteered, steered)",
        "rho_baseline_bridge": "rho(unsteered, bridge)",
    },
    rests_on_rho=True,
    precedence=4,
)


def _sign_inverted(arm: ArmRates, analysis: AnalysisSettings) -> Kill:
    """With the persona prompt on, pushing along the direction lowers the rate of many personas."""
    known = ~(np.isnan(arm.prompted) | np.isnan(arm.prompted_steered))
    inverted = np.asarray(np.sum(known & (arm.prompted_steered < arm.prompted), axis=0))
    compared = np.asarray(np.sum(known, axis=0))
    needed = analysis.thresholds.inverted_share * len(arm.prompted) - _ROUNDING
    possible = inverted + (len(arm.prompted) - compared)
    fired = flag(inverted >= needed, unknown=(inverted < needed) & (possible >= needed))
    numbers = {"n_inverted": np.where(compared > 0, inverted, np.nan), "n": compared.astype(float)}
    return Kill(fired=fired, numbers=numbers)


_SIGN_INVERTED = Criterion(
    name="sign_inverted",
    meaning="with the persona prompt on, the push lowers the rate",
    fires_when=lambda analysis: (
        f"rate({analysis.primary_strength}) < rate(none) under the persona prompt for at "
        f"least {analysis.thresholds.inverted_share:.0%} of the personas"
    ),
    judge=_sign_inverted,
    cells=lambda arm: (arm.prompted, arm.prompted_steered),
    numbers={"n_inverted": "personas that fell", "n": "personas compared"},
    rests_on_rho=False,
    precedence=2,
)


def _no_correlation(arm: ArmRates, analysis: AnalysisSettings) -> Kill:
    """The steered ranking has nothing to do with the bridge."""
    rho, complete = spearman(arm.steered, arm.bridge), all_present(arm.steered, arm.bridge)
    fired = negated(at_least(rho, analysis.thresholds.no_correlation, complete))
    return Kill(fired=fired, numbers={"rho": rho})


_NO_CORRELATION = Criterion(
    name="no_correlation",
    meaning="the steered ranking does not follow the bridge",
    fires_when=lambda analysis: f"rho < {analysis.thresholds.no_correlation:g}",
    judge=_no_correlation,
    cells=lambda arm: (arm.steered, arm.bridge),
    numbers={"rho": "rho"},
    rests_on_rho=True,
    precedence=5,
)


def _direction_not_specific(arm: ArmRates, analysis: AnalysisSettings) -> Kill:
    """A random direction of the same norm does as well: neither the ranking nor the rate differs.

    Mean rates are unweighted means over personas. Their Wilson half-widths are those of the
    pooled counts, and the larger of the two is the yardstick.
    """
    margin, confidence = analysis.thresholds.specific_rho, analysis.confidence
    direction, isotropic = spearman(arm.steered, arm.bridge), spearman(arm.isotropic, arm.bridge)
    means = [mean_rate(arm.steered), mean_rate(arm.isotropic)]
    halves = [
        pooled_half_width(arm.steered, arm.steered_total, confidence),
        pooled_half_width(arm.isotropic, arm.isotropic_total, confidence),
    ]
    half = np.asarray(np.maximum(*halves))
    complete = all_present(arm.steered, arm.bridge, arm.isotropic)
    ranks_alike = negated(at_least(direction - isotropic, margin - _ROUNDING, complete))
    rates_alike = negated(at_least(np.abs(means[0] - means[1]), half - _ROUNDING, complete))
    numbers = {
        "rho_direction": direction,
        "rho_isotropic": isotropic,
        "mean_rate_direction": means[0],
        "mean_rate_isotropic": means[1],
        "wilson_half_width": half,
    }
    return Kill(fired=both(ranks_alike, rates_alike), numbers=numbers)


_DIRECTION_NOT_SPECIFIC = Criterion(
    name="direction_not_specific",
    meaning="a random direction of the same norm does as well",
    fires_when=lambda analysis: (
        f"rho(centroid) - rho(isotropic) < {analysis.thresholds.specific_rho:g} and the mean rates "
        "differ by less than the larger Wilson half-width"
    ),
    judge=_direction_not_specific,
    cells=lambda arm: (arm.steered, arm.isotropic, arm.bridge),
    numbers={
        "rho_direction": "rho of the direction",
        "rho_isotropic": "rho of the random direction",
        "mean_rate_direction": "mean rate, direction",
        "mean_rate_isotropic": "mean rate, random direction",
        "wilson_half_width": "larger Wilson half-width",
    },
    rests_on_rho=True,
    precedence=3,
    reading=NOT_SPECIFIC,
)

REGISTERED = (
    _UNIFORM_ZERO,
    _BASELINE_RATE_DRIVEN,
    _SIGN_INVERTED,
    _NO_CORRELATION,
    _DIRECTION_NOT_SPECIFIC,
)
"""The criteria of every arm, in the order of tables and texts."""
