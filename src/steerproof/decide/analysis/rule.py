"""The rule: when an arm passes, and which verdict follows. Written once, for any batch of tables.

`analyze` applies it to one real table, `power` to thousands of simulated ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float, Int

from steerproof.decide.analysis.flags import Flag, Rates, all_present
from steerproof.decide.analysis.kills import Kill, criteria
from steerproof.decide.analysis.resampling import Interval
from steerproof.decide.analysis.statistics import is_constant, spearman
from steerproof.spec.judging import AnalysisSettings


class Verdict(StrEnum):
    """What the experiment says of its hypothesis."""

    SUPPORTED = "SUPPORTED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


class Outcome(StrEnum):
    """Why; beside these, the name of the kill that fired."""

    MISSING_PERSONAS = "missing_personas"
    UNDEFINED_RHO = "undefined_rho"
    UNDEFINED_RESAMPLES = "undefined_resamples"
    BELOW_THRESHOLD = "below_threshold"
    NO_INTERVAL = "no_interval"
    NOT_PASSED = "not_passed"
    KILL_UNDECIDED = "kill_undecided"
    ISOTROPIC_PASSES = "isotropic_passes"
    ISOTROPIC_UNDECIDED = "isotropic_undecided"
    BASELINE_PASSES = "baseline_passes"
    BASELINE_UNDECIDED = "baseline_undecided"
    SUPPORTED = "supported"


def outcomes() -> tuple[str, ...]:
    """Outcomes by code; the first that applies, in this order, decides the verdict.

    Order matters twice. A kill that counts rates needs no rho and is decided first; a kill that
    rests on a rho waits until that rho is known to be stable.
    """
    ordered = sorted(criteria(), key=lambda criterion: criterion.precedence)
    counting = [criterion.name for criterion in ordered if not criterion.rests_on_rho]
    resting = [criterion.name for criterion in ordered if criterion.rests_on_rho]
    after = {Outcome.MISSING_PERSONAS: counting, Outcome.UNDEFINED_RESAMPLES: resting}
    return tuple(name for first in Outcome for name in (first, *after.get(first, ())))


def verdict_of(outcome: str) -> Verdict:
    """The verdict that an outcome means."""
    if outcome == Outcome.SUPPORTED:
        return Verdict.SUPPORTED
    refuting = {Outcome.BELOW_THRESHOLD, *(criterion.name for criterion in criteria())}
    return Verdict.REFUTED if outcome in refuting else Verdict.INCONCLUSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the rule sees of one arm at one strength."""

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


def seen_of(steered: Rates, bridge: Rates, interval: Interval | None) -> Seen:
    """What the rule sees of one kind of cell.

    Args:
        steered: Steered rates; NaN where missing.
        bridge: Bridge rates; NaN where missing.
        interval: Registered interval; none where nothing could be resampled.
    """
    rho = spearman(steered, bridge)
    none = np.full_like(rho, np.nan)
    return Seen(
        rho=rho,
        low=none if interval is None else interval.low,
        high=none if interval is None else interval.high,
        undefined_share=np.zeros_like(rho) if interval is None else interval.share,
        complete=all_present(steered, bridge),
        flat=np.asarray(is_constant(steered) & ~is_constant(bridge)),
    )


def passes(seen: Seen, analysis: AnalysisSettings) -> Flag:
    """Whether the arm passes: rho at or above the threshold, and its lower bound above 0.

    Rates that are all equal carry no ranking: fully measured, they do not pass. A missing
    persona, a constant bridge, too many undefined resamples or a missing interval leave it open,
    except that a rho below the threshold cannot pass whatever its interval.
    """
    below = seen.flat | (seen.rho < analysis.thresholds.rho)
    open_ = (
        np.isnan(seen.rho) | np.isnan(seen.low) | (seen.undefined_share > analysis.max_undefined)
    )
    decided = np.where(open_, np.nan, np.where(seen.low > 0, 1.0, 0.0))
    return np.asarray(np.where(seen.complete, np.where(below, 0.0, decided), np.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFlags:
    """Whether the arms that must fail pass; a control that does not apply is 0."""

    isotropic_passes: Flag
    baseline_passes: Flag


def decide(
    seen: Seen, killed: Mapping[str, Kill], controls: ControlFlags, analysis: AnalysisSettings
) -> Int[np.ndarray, "*batch"]:
    """The outcome of every table, as an index into `outcomes()`.

    Args:
        seen: The tested arm at the primary strength.
        killed: Its kills by name.
        controls: Whether the arms that must fail pass.
        analysis: The registered numbers.
    """
    passed = passes(seen, analysis)
    conditions = {
        **{name: kill.fired == 1 for name, kill in killed.items()},
        Outcome.MISSING_PERSONAS: ~seen.complete,
        Outcome.UNDEFINED_RHO: np.isnan(seen.rho),
        Outcome.UNDEFINED_RESAMPLES: seen.undefined_share > analysis.max_undefined,
        Outcome.BELOW_THRESHOLD: seen.high < analysis.thresholds.rho,
        Outcome.NO_INTERVAL: np.isnan(seen.low),
        Outcome.NOT_PASSED: passed != 1,
        Outcome.KILL_UNDECIDED: np.any([np.isnan(kill.fired) for kill in killed.values()], axis=0),
        Outcome.ISOTROPIC_PASSES: controls.isotropic_passes == 1,
        Outcome.ISOTROPIC_UNDECIDED: np.isnan(controls.isotropic_passes),
        Outcome.BASELINE_PASSES: controls.baseline_passes == 1,
        Outcome.BASELINE_UNDECIDED: np.isnan(controls.baseline_passes),
        Outcome.SUPPORTED: np.ones_like(seen.complete),
    }
    stacked = np.array([np.broadcast_to(conditions[o], passed.shape) for o in outcomes()])
    return np.asarray(stacked.argmax(axis=0))
