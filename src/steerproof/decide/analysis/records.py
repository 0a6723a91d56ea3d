"""What the analysis found, as frozen records. None means undefined; a reason always says why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from steerproof.decide.analysis.rule import Verdict

Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A bootstrap distribution of rho in equal bins from -1 to 1."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthResult:
    """One arm steered at one strength, against the bridge."""

    strength: str
    n: int
    """Headline personas with both rates; the rule needs all of them."""
    missing: tuple[str, ...]
    """Headline personas without the steered cell or the bridge."""
    rho: float | None
    """Spearman over the personas present."""
    interval: Bounds | None
    """Registered interval: questions resampled, personas and bridge fixed."""
    two_level: Bounds | None
    """Personas and questions resampled: speaks of personas in general."""
    reason: str | None
    """Why a number above is undefined."""
    leave_one_out: Bounds | None
    """Smallest and largest rho when one persona is left out."""
    permutation_p: float | None
    """Two-sided, over pairings of the personas."""
    permutation_method: str | None
    """`exact` or `monte-carlo`."""
    kendall_tau: float | None
    """Tau-b, as a check that does not depend on rank distances."""
    undefined_resamples: int | None
    """Registered resamples without a rho; None where nothing was resampled."""
    undefined_share: float | None
    two_level_undefined_share: float | None
    passes: bool | None
    """The rule at this strength."""
    rates: Mapping[str, float | None]
    """Steered rate by headline persona."""
    distribution: Histogram | None
    """Registered bootstrap distribution."""
    two_level_distribution: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KillResult:
    """One kill criterion of one arm."""

    fired: bool | None
    reason: str | None
    """Why it is undecided, or why one of its numbers is undefined."""
    numbers: Mapping[str, float | int | None]

    def record(self) -> dict[str, Any]:
        """As JSON has it: the numbers stand beside `fired`."""
        return {"fired": self.fired, **self.numbers, "reason": self.reason}


def _numbers_apart(value: Any) -> Any:
    """A criterion as `plain` writes it, its numbers back in a mapping of their own."""
    if not isinstance(value, Mapping):
        return value
    numbers = {key: item for key, item in value.items() if key not in ("fired", "reason")}
    return {"fired": value.get("fired"), "reason": value.get("reason"), "numbers": numbers}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """All that is said of one arm."""

    direction: str
    layer: int
    mean_rates: Mapping[str, float | None]
    """Mean over headline personas: `unsteered`, `prompted`, `primary`, `co_primary`."""
    primary: StrengthResult
    co_primary: StrengthResult | None
    kills: Mapping[str, Annotated[KillResult, BeforeValidator(_numbers_apart)]]
    passes: bool | None
    """The rule at the primary strength; kills are counted in the verdict."""

    @property
    def strengths(self) -> tuple[StrengthResult, ...]:
        """The registered strengths that the arm was judged at, primary first."""
        return (self.primary,) if self.co_primary is None else (self.primary, self.co_primary)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlArm:
    """An arm that tests the rig or the claim."""

    arm: str
    strength: str
    rho: float | None
    passes: bool | None
    must_fail: bool
    ok: bool | None
    """It failed as it must; None if undecided or if nothing is demanded of it."""
    rho_difference: float | None
    """rho of the tested arm minus rho of this one."""
    difference_interval: Bounds | None
    """Paired: both arms resampled on the same questions."""
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignCheck:
    """Does the rate drop when the direction is turned round?"""

    positive: str
    negative: str
    n: int
    """Headline personas with both cells."""
    n_lower: int | None
    """Personas whose rate at the negative strength is the lower one."""
    n_higher: int | None
    n_equal: int | None
    mean_positive: float | None
    mean_negative: float | None
    sign_p: float | None
    """One-sided exact sign test that the rate drops."""
    signed_rank_p: float | None
    """One-sided exact Wilcoxon signed-rank test that the rate drops."""
    holds: bool | None
    """The signed-rank test rejects at one minus the confidence level."""
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResults:
    """The controls that the experiment names; None where it has none."""

    baseline: ControlArm | None
    """Arm that must fail the same rule."""
    isotropic: ControlArm | None
    """Arm with a random direction; must fail too."""
    contrast: ControlArm | None
    """Arm at another layer; nothing is demanded."""
    sign_check: SignCheck | None

    @property
    def arms(self) -> Mapping[str, ControlArm | None]:
        """The control arms by role."""
        return {
            "baseline": self.baseline,
            "isotropic": self.isotropic,
            "contrast": self.contrast,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two kinds of cell over the same personas, paired question by question."""

    left: str
    right: str
    load_bearing: bool
    """Declared in the experiment as the comparison that carries the claim."""
    rho_left: float | None
    """Spearman of the left rates and the bridge."""
    rho_right: float | None
    rho_difference: float | None
    rho_difference_interval: Bounds | None
    rho_between: float | None
    """Spearman of the left and the right rates."""
    rho_between_interval: Bounds | None
    mean_left: float | None
    mean_right: float | None
    mean_difference: float | None
    mean_difference_interval: Bounds | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResults:
    """The two readings of the question; None where there is nothing to compare with."""

    steered_vs_baseline_arm: PairedComparison | None
    """Did training rescue steering?"""
    steered_vs_prompted: PairedComparison | None
    """Did the direction replace the prompt?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineLayer:
    """Cosine to the reference persona's direction against the bridge, at one layer."""

    n: int
    """All personas with both numbers, supplementary ones included."""
    rho: float | None
    permutation_p: float | None
    n_headline: int
    rho_headline: float | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineCorrelation:
    """The cosine-to-firing correlation, layer by layer."""

    reference: str
    layers: Mapping[str, CosineLayer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """The whole registered analysis of one rate table."""

    experiment: str
    arm: str
    """The arm that the verdict is about."""
    personas: tuple[str, ...]
    """Headline personas."""
    bridge: Mapping[str, float | None]
    """Bridge rate by headline persona."""
    confidence: float
    iterations: int
    seed: int
    arms: Mapping[str, ArmResult]
    controls: ControlResults
    comparisons: ComparisonResults
    geometry: CosineCorrelation | None
    outcome: str
    """Machine-readable reason of the verdict: an `Outcome`, or the name of the kill that fired."""
    verdict: Verdict
    reason: str
    """The verdict's reason in one sentence, with its numbers."""
    reading: str
    """What the outcome means for the question."""
    magnitude_bound: bool | None
    """The arm passes at one of the two strengths only; None if one of them is undecided."""
    notes: tuple[str, ...]
    """What a reader should know of the table, such as incomplete cells."""

    @property
    def tested(self) -> ArmResult:
        """The arm that the verdict is about."""
        return self.arms[self.arm]


def truth(value: float | np.ndarray) -> bool | None:
    """A flag (1, 0, NaN) as True, False or None."""
    return None if math.isnan(value) else bool(value)
