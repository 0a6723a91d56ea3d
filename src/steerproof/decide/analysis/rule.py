"""The rule: when an arm passes, and which verdict follows. Written once, for any batch of tables.

`analysis.py` applies it to one real table, `power.py` to thousands of simulated ones.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float, Int

from steerproof.decide.analysis.kills import Flag, Kill, Rates, all_present
from steerproof.decide.analysis.resampling import Interval
from steerproof.decide.analysis.statistics import is_constant, spearman
from steerproof.spec.experiment import Thresholds


class Verdict(StrEnum):
    """What the experiment says of its hypothesis."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Outcome(StrEnum):
    """Why; the first that applies, in this order, decides the verdict."""

    MISSING_PERSONAS = "missing_personas"
    UNIFORM_ZERO = "uniform_zero"
    SIGN_INVERTED = "sign_inverted"
    UNDEFINED_RHO = "undefined_rho"
    UNDEFINED_RESAMPLES = "undefined_resamples"
    DIRECTION_NOT_SPECIFIC = "direction_not_specific"
    BASELINE_RATE_DRIVEN = "baseline_rate_driven"
    NO_CORRELATION = "no_correlation"
    BELOW_THRESHOLD = "below_threshold"
    NO_INTERVAL = "no_interval"
    NOT_PASSED = "not_passed"
    KILL_UNDECIDED = "kill_undecided"
    ISOTROPIC_PASSES = "isotropic_passes"
    ISOTROPIC_UNDECIDED = "isotropic_undecided"
    BASELINE_PASSES = "baseline_passes"
    BASELINE_UNDECIDED = "baseline_undecided"
    SUPPORTED = "supported"


OUTCOMES = tuple(Outcome)
"""Outcomes by code."""

_REFUTING = {
    Outcome.UNIFORM_ZERO,
    Outcome.SIGN_INVERTED,
    Outcome.DIRECTION_NOT_SPECIFIC,
    Outcome.BASELINE_RATE_DRIVEN,
    Outcome.NO_CORRELATION,
    Outcome.BELOW_THRESHOLD,
}


def verdict_of(outcome: Outcome) -> Verdict:
    """The verdict that an outcome means."""
    if outcome is Outcome.SUPPORTED:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if outcome in _REFUTING else Verdict.INCONCLUSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one arm shows at one strength."""

    rho: Float[np.ndarray, "*batch"]
    """Spearman of steered rate and bridge; NaN where undefined."""
    low: Float[np.ndarray, "*batch"]
    """Lower bound of the registered interval; NaN where there is none."""
    high: Float[np.ndarray, "*batch"]
    """Upper bound."""
    undefined_share: Float[np.ndarray, "*batch"]
    """Share of resamples without a rho; 0 where nothing was resampled."""
    complete: Bool[np.ndarray, "*batch"]
    """Every headline persona has its steered cell and its bridge."""
    flat: Bool[np.ndarray, "*batch"]
    """All steered rates are equal, while the bridge rates are not."""


def evidence_of(steered: Rates, bridge: Rates, interval: Interval | None) -> Evidence:
    """What the rule sees of one kind of cell.

    Args:
        steered: Steered rates; NaN where missing.
        bridge: Bridge rates; NaN where missing.
        interval: Registered interval; none where nothing could be resampled.
    """
    rho = spearman(steered, bridge)
    none = np.full_like(rho, np.nan)
    return Evidence(
        rho=rho,
        low=none if interval is None else interval.low,
        high=none if interval is None else interval.high,
        undefined_share=np.zeros_like(rho) if interval is None else interval.share,
        complete=all_present(steered, bridge),
        flat=np.asarray(is_constant(steered) & ~is_constant(bridge)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The registered numbers that the rule needs."""

    thresholds: Thresholds
    max_undefined: float


def passes(evidence: Evidence, limits: Limits) -> Flag:
    """Whether the arm passes: rho at or above the threshold, and its lower bound above 0.

    Rates that are all equal carry no ranking: fully measured, they do not pass. A missing
    persona, a constant bridge, too many undefined resamples or a missing interval leave it open,
    except that a rho below the threshold cannot pass whatever its interval.
    """
    below = evidence.flat | (evidence.rho < limits.thresholds.rho)
    open_ = (
        np.isnan(evidence.rho)
        | np.isnan(evidence.low)
        | (evidence.undefined_share > limits.max_undefined)
    )
    decided = np.where(open_, np.nan, np.where(evidence.low > 0, 1.0, 0.0))
    return np.asarray(np.where(evidence.complete, np.where(below, 0.0, decided), np.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """Whether the arms that must fail pass; a control that does not apply is 0."""

    isotropic_passes: Flag
    baseline_passes: Flag


def decide(
    evidence: Evidence, found: dict[str, Kill], controls: Controls, limits: Limits
) -> Int[np.ndarray, "*batch"]:
    """The outcome of every table, as an index into `OUTCOMES`.

    Order matters twice. A kill that counts rates (uniform_zero, sign_inverted) needs no rho and
    is decided first; a kill that rests on a rho waits until that rho is known to be stable.
    """
    thresholds = limits.thresholds
    fired = {name: kill.fired == 1 for name, kill in found.items()}
    unsure = np.any([np.isnan(kill.fired) for kill in found.values()], axis=0)
    passed = passes(evidence, limits)
    conditions = {
        Outcome.MISSING_PERSONAS: ~evidence.complete,
        Outcome.UNIFORM_ZERO: fired["uniform_zero"],
        Outcome.SIGN_INVERTED: fired["sign_inverted"],
        Outcome.UNDEFINED_RHO: np.isnan(evidence.rho),
        Outcome.UNDEFINED_RESAMPLES: evidence.undefined_share > limits.max_undefined,
        Outcome.DIRECTION_NOT_SPECIFIC: fired["direction_not_specific"],
        Outcome.BASELINE_RATE_DRIVEN: fired["baseline_rate_driven"],
        Outcome.NO_CORRELATION: fired["no_correlation"],
        Outcome.BELOW_THRESHOLD: evidence.high < thresholds.rho,
        Outcome.NO_INTERVAL: np.isnan(evidence.low),
        Outcome.NOT_PASSED: passed != 1,
        Outcome.KILL_UNDECIDED: unsure,
        Outcome.ISOTROPIC_PASSES: controls.isotropic_passes == 1,
        Outcome.ISOTROPIC_UNDECIDED: np.isnan(controls.isotropic_passes),
        Outcome.BASELINE_PASSES: controls.baseline_passes == 1,
        Outcome.BASELINE_UNDECIDED: np.isnan(controls.baseline_passes),
        Outcome.SUPPORTED: np.ones_like(evidence.complete),
    }
    stacked = np.array([np.broadcast_to(conditions[o], passed.shape) for o in OUTCOMES])
    return np.asarray(stacked.argmax(axis=0))
