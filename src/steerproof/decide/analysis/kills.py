"""The five kill criteria, with the numbers that decide them.

Each is a function of rates alone, over any batch of tables at once (one real table, or thousands
of simulated ones). A flag is 1 (fired), 0 (not fired) or NaN (cannot be decided); what is missing
makes a kill undecided only where it could change the answer.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from steerproof.decide.analysis.statistics import is_constant, spearman, wilson_half_width
from steerproof.spec.experiment import Thresholds

Flag = Float[np.ndarray, "*batch"]
"""1 true, 0 false, NaN undecided."""
Values = np.ndarray | np.generic | float
"""Numbers or conditions, on their way into an array: numpy makes scalars of a single table's."""
Rates = Float[np.ndarray, "personas *batch"]
"""One rate per headline persona; NaN where the cell is missing."""

ROUNDING = 1e-12
"""Slack of a comparison of a difference of two rounded numbers with a threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRates:
    """Every rate of one arm that its kills look at."""

    bridge: Rates
    """Persona prompt, unsteered, in the bridge arm: the reference ranking."""
    steered: Rates
    """Neutral prompt, primary strength."""
    unsteered: Rates
    """Neutral prompt, no direction."""
    prompted: Rates
    """Persona prompt, no direction."""
    prompted_steered: Rates
    """Persona prompt, primary strength."""
    sweep: Float[np.ndarray, "cells personas *batch"]
    """Neutral prompt, every strength that the arm was steered with."""
    isotropic: Rates
    """Neutral prompt, primary strength, a random direction of the same norm."""
    steered_total: Float[np.ndarray, " personas"]
    """Completions behind `steered`."""
    isotropic_total: Float[np.ndarray, " personas"]
    """Completions behind `isotropic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One criterion: whether it fired, and on what numbers."""

    fired: Flag
    numbers: dict[str, Flag]
    """The numbers that decided it; NaN where undefined."""


def kills(arm: ArmRates, limits: Thresholds, confidence: float) -> dict[str, Kill]:
    """All five criteria of an arm.

    Args:
        arm: Rates over the headline personas.
        limits: Registered thresholds.
        confidence: Level of the Wilson intervals in `direction_not_specific`.

    Returns:
        Criteria by name, in the registered order.
    """
    return {
        "uniform_zero": uniform_zero(arm.sweep, limits.uniform_zero_rate),
        "baseline_rate_driven": baseline_rate_driven(arm, limits),
        "sign_inverted": sign_inverted(arm, limits.inverted_share),
        "no_correlation": no_correlation(arm, limits.no_correlation),
        "direction_not_specific": direction_not_specific(arm, limits.specific_rho, confidence),
    }


def uniform_zero(sweep: Float[np.ndarray, "cells personas *batch"], highest: float) -> Kill:
    """Steering elicits nothing: every steered cell under the neutral prompt is at most `highest`.

    Cells with the persona prompt on are left out: there the prompt alone can fire the marker.
    """
    if not sweep.size:
        nothing = np.full(sweep.shape[2:], np.nan)
        return Kill(fired=nothing, numbers={"max_rate": nothing})
    largest = np.asarray(np.where(np.isnan(sweep), -np.inf, sweep).max(axis=(0, 1)))
    some_missing = np.isnan(sweep).any(axis=(0, 1))
    fired = flag(largest <= highest, unknown=some_missing & (largest <= highest))
    return Kill(fired=fired, numbers={"max_rate": np.where(largest < 0, np.nan, largest)})


def baseline_rate_driven(arm: ArmRates, limits: Thresholds) -> Kill:
    """The ranking was there before steering: the unsteered rate predicts both others.

    An unsteered rate that is the same for every persona (often 0) ranks nothing and drives
    nothing: its correlations are undefined and the criterion does not fire.
    """
    to_steered = spearman(arm.unsteered, arm.steered)
    to_bridge = spearman(arm.unsteered, arm.bridge)
    steered = at_least(to_steered, limits.baseline_steered, all_present(arm.unsteered, arm.steered))
    bridge = at_least(to_bridge, limits.baseline_bridge, all_present(arm.unsteered, arm.bridge))
    numbers = {"rho_baseline_steered": to_steered, "rho_baseline_bridge": to_bridge}
    flat = is_constant(arm.unsteered) & all_present(arm.unsteered)
    return Kill(fired=np.where(flat, 0.0, both(steered, bridge)), numbers=numbers)


def sign_inverted(arm: ArmRates, share: float) -> Kill:
    """With the persona prompt on, pushing along the direction lowers the rate of many personas."""
    known = ~(np.isnan(arm.prompted) | np.isnan(arm.prompted_steered))
    inverted = np.asarray(np.sum(known & (arm.prompted_steered < arm.prompted), axis=0))
    compared = np.asarray(np.sum(known, axis=0))
    needed = share * len(arm.prompted) - ROUNDING
    possible = inverted + (len(arm.prompted) - compared)
    fired = flag(inverted >= needed, unknown=(inverted < needed) & (possible >= needed))
    numbers = {"n_inverted": np.where(compared > 0, inverted, np.nan), "n": compared.astype(float)}
    return Kill(fired=fired, numbers=numbers)


def no_correlation(arm: ArmRates, threshold: float) -> Kill:
    """The steered ranking has nothing to do with the bridge."""
    rho = spearman(arm.steered, arm.bridge)
    return Kill(
        fired=negated(at_least(rho, threshold, all_present(arm.steered, arm.bridge))),
        numbers={"rho": rho},
    )


def direction_not_specific(arm: ArmRates, margin: float, confidence: float) -> Kill:
    """A random direction of the same norm does as well: neither the ranking nor the rate differs.

    Mean rates are unweighted means over personas. Their Wilson half-widths are those of the
    pooled counts, and the larger of the two is the yardstick.
    """
    direction, isotropic = spearman(arm.steered, arm.bridge), spearman(arm.isotropic, arm.bridge)
    means = [mean_rate(arm.steered), mean_rate(arm.isotropic)]
    halves = [
        pooled_half_width(arm.steered, arm.steered_total, confidence),
        pooled_half_width(arm.isotropic, arm.isotropic_total, confidence),
    ]
    half = np.asarray(np.maximum(*halves))
    complete = all_present(arm.steered, arm.bridge, arm.isotropic)
    ranks_alike = negated(at_least(direction - isotropic, margin - ROUNDING, complete))
    rates_alike = negated(at_least(np.abs(means[0] - means[1]), half - ROUNDING, complete))
    numbers = {
        "rho_direction": direction,
        "rho_isotropic": isotropic,
        "mean_rate_direction": means[0],
        "mean_rate_isotropic": means[1],
        "wilson_half_width": half,
    }
    return Kill(fired=both(ranks_alike, rates_alike), numbers=numbers)


def mean_rate(values: Rates) -> Flag:
    """Unweighted mean over the personas that are present; NaN if there is none."""
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    total = np.where(present, values, 0.0).sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def pooled_half_width(
    values: Rates, total: Float[np.ndarray, " personas"], confidence: float
) -> Flag:
    """Wilson half-width of the completions of all personas together; NaN if there is none."""
    trials = np.where(np.isnan(values), 0.0, total.reshape(-1, *[1] * (values.ndim - 1)))
    fired = np.asarray(np.where(np.isnan(values), 0.0, values * trials).sum(axis=0))
    trials = np.asarray(trials.sum(axis=0))
    half = wilson_half_width(fired, np.asarray(np.maximum(trials, 1.0)), confidence)
    return np.asarray(np.where(trials > 0, half, np.nan))


def all_present(*quantities: Rates) -> Bool[np.ndarray, "*batch"]:
    """Whether no persona is missing from any of the quantities."""
    return np.asarray(~np.any([np.isnan(values).any(axis=0) for values in quantities], axis=0))


def at_least(value: Values, threshold: Values, complete: Values) -> Flag:
    """Flag `value >= threshold`, undecided where personas are missing or a number is undefined."""
    value, threshold = np.asarray(value), np.asarray(threshold)
    unknown = np.isnan(value) | np.isnan(threshold) | ~np.asarray(complete)
    return flag(value >= threshold, unknown=unknown)


def flag(true: Values, *, unknown: Values) -> Flag:
    """1 or 0, and NaN where unknown."""
    return np.asarray(np.where(unknown, np.nan, np.where(true, 1.0, 0.0)))


def negated(value: Flag) -> Flag:
    """True for false, undecided stays undecided."""
    return np.asarray(1.0 - value)


def both(left: Flag, right: Flag) -> Flag:
    """And of two flags: one false decides, whatever the other is."""
    return np.asarray(np.where((left == 0) | (right == 0), 0.0, left * right))
