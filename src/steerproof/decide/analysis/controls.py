"""Verdicts beside the verdict: control arms, the sign check, the two comparisons, the geometry."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.case import (
    Case,
    Sampled,
    interval_of,
    missing_personas,
    no_resampling,
    paired_draws,
    rates_of,
    undefined_reason,
)
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.permutation import paired_test, permutation_test
from steerproof.decide.analysis.rates import cell_rates
from steerproof.decide.analysis.records import (
    Bounds,
    ComparisonResults,
    ControlArm,
    CosineCorrelation,
    CosineLayer,
    PairedComparison,
    SignCheck,
    StrengthResult,
)
from steerproof.decide.analysis.resampling import registered_draws, stream
from steerproof.decide.analysis.statistics import defined, mean_rate, spearman
from steerproof.spec.grid import CellKind


def control_arm(
    case: Case,
    tested: tuple[str, StrengthResult],
    control: tuple[str, StrengthResult],
    *,
    must_fail: bool,
) -> ControlArm:
    """A control arm beside the tested arm, at the primary strength.

    Args:
        case: The table and the experiment.
        tested: Arm of the hypothesis, with its result.
        control: Arm of the control, with its result.
        must_fail: The claim needs this arm to fail the rule.
    """
    (tested_arm, ours), (arm, result) = tested, control
    difference = None if ours.rho is None or result.rho is None else ours.rho - result.rho
    strength = case.experiment.analysis.primary_strength
    interval, reason = _rho_difference(
        case,
        steered_kind(case.experiment, tested_arm, strength),
        steered_kind(case.experiment, arm, strength),
    )
    ok = None if result.passes is None or not must_fail else not result.passes
    reasons = dict.fromkeys(r for r in (result.reason, reason) if r)
    return ControlArm(
        arm=arm,
        strength=result.strength,
        rho=result.rho,
        passes=result.passes,
        must_fail=must_fail,
        ok=ok,
        rho_difference=difference,
        difference_interval=interval,
        reason="; ".join(reasons) or None,
    )


def _rho_difference(
    case: Case, left: CellKind, right: CellKind
) -> tuple[Bounds | None, str | None]:
    """Interval of rho(left) - rho(right) against the bridge, both on the same drawn questions."""
    if missing_personas(case, case.bridge):
        return None, no_resampling(case, case.bridge)
    pair = paired_draws(case, left, right)
    if isinstance(pair, str):
        return None, pair
    bridge = rates_of(case, case.bridge)
    rhos = [registered_draws(side.draws, bridge) for side in pair]
    return _bounds_of(case, rhos[0] - rhos[1])


def _bounds_of(
    case: Case, draws: Float[np.ndarray, " iterations"]
) -> tuple[Bounds | None, str | None]:
    """An interval, or why there is none."""
    interval = interval_of(case, draws)
    if np.isnan(interval.low):
        return None, undefined_reason(case, interval)
    return (float(interval.low), float(interval.high)), None


def _comparison(
    case: Case, left: CellKind, right: CellKind, *, load_bearing: bool
) -> PairedComparison:
    """Two kinds of cell against the bridge, against each other, and in their mean rate."""
    bridge, one, two = (rates_of(case, kind) for kind in (case.bridge, left, right))
    rhos = [spearman(one, bridge), spearman(two, bridge), spearman(one, two)]
    means = [mean_rate(one), mean_rate(two)]
    difference, difference_reason = _rho_difference(case, left, right)
    between, mean, between_reason = _paired_intervals(case, paired_draws(case, left, right))
    missing = missing_personas(case, case.bridge, left, right)
    left_out = f"no rate for {', '.join(missing)}" if missing else None
    reasons = dict.fromkeys(r for r in (left_out, difference_reason, between_reason) if r)
    return PairedComparison(
        left=left.name,
        right=right.name,
        load_bearing=load_bearing,
        rho_left=defined(rhos[0]),
        rho_right=defined(rhos[1]),
        rho_difference=defined(rhos[0] - rhos[1]),
        rho_difference_interval=difference,
        rho_between=defined(rhos[2]),
        rho_between_interval=between,
        mean_left=defined(means[0]),
        mean_right=defined(means[1]),
        mean_difference=defined(mean_rate(one - two)),
        mean_difference_interval=mean,
        reason="; ".join(reasons) or None,
    )


def _paired_intervals(
    case: Case, pair: tuple[Sampled, Sampled] | str
) -> tuple[Bounds | None, Bounds | None, str | None]:
    """Intervals of the correlation between two kinds of cell and of their mean difference."""
    if isinstance(pair, str):
        return None, None, pair
    left, right = (side.draws for side in pair)
    between, reason = _bounds_of(case, spearman(left, right))
    mean, _ = _bounds_of(case, (left - right).mean(axis=0))
    return between, mean, reason


def compare_both_ways(case: Case, arm: str) -> ComparisonResults:
    """The two readings of the question, one of them declared load-bearing."""
    analysis = case.experiment.analysis
    steered = steered_kind(case.experiment, arm, analysis.primary_strength)
    other = analysis.baseline_arm
    against_arm = None
    if other is not None and other != arm:
        against_arm = _comparison(
            case,
            steered,
            steered_kind(case.experiment, other, analysis.primary_strength),
            load_bearing=analysis.load_bearing == "steered_vs_baseline_arm",
        )
    against_prompt = _comparison(
        case,
        steered,
        CellKind(arm=arm, prompt="persona"),
        load_bearing=analysis.load_bearing == "steered_vs_prompted",
    )
    return ComparisonResults(
        steered_vs_baseline_arm=against_arm, steered_vs_prompted=against_prompt
    )


def sign_check(case: Case, arm: str) -> SignCheck | None:
    """Per persona, is the rate lower when the direction is turned round?"""
    analysis = case.experiment.analysis
    if analysis.negative_strength is None or analysis.co_primary_strength is None:
        return None
    kinds = [
        steered_kind(case.experiment, arm, strength)
        for strength in (analysis.co_primary_strength, analysis.negative_strength)
    ]
    positive, negative = (rates_of(case, kind) for kind in kinds)
    drops = (positive - negative)[~np.isnan(positive - negative)]
    missing = missing_personas(case, *kinds)
    test = paired_test(drops) if len(drops) else None
    reason = f"no rate for {', '.join(missing)}" if missing else None
    if test and test.signed_rank_p is None:
        reason = "no persona's rate differs between the two signs"
    holds = None
    if test and not missing:
        p = 1.0 if test.signed_rank_p is None else test.signed_rank_p
        holds = p <= 1 - analysis.confidence
    return SignCheck(
        positive=str(analysis.co_primary_strength),
        negative=str(analysis.negative_strength),
        n=len(drops),
        n_lower=test and test.n_greater,
        n_higher=test and test.n_less,
        n_equal=test and test.n_equal,
        mean_positive=defined(mean_rate(positive)),
        mean_negative=defined(mean_rate(negative)),
        sign_p=test and test.sign_p,
        signed_rank_p=test and test.signed_rank_p,
        holds=holds,
        reason=reason,
    )


def correlate_geometry(case: Case, cosines: Mapping[str, Mapping[str, float]]) -> CosineCorrelation:
    """Correlate each layer's cosine to the reference persona with the bridge rate.

    Args:
        case: The table and the experiment.
        cosines: Layer to persona to `cos(v[p], v[reference])`.
    """
    everyone = tuple(persona.name for persona in case.experiment.personas)
    layers = {
        str(layer): _layer_geometry(case, str(layer), everyone, by_persona)
        for layer, by_persona in cosines.items()
    }
    return CosineCorrelation(reference=case.experiment.reference_persona, layers=layers)


def _layer_geometry(
    case: Case, layer: str, everyone: tuple[str, ...], cosines: Mapping[str, float]
) -> CosineLayer:
    """One layer of the cosine-to-firing correlation."""
    cosine = np.array([cosines.get(name, np.nan) for name in everyone], dtype=float)
    rate = cell_rates(case.table, case.bridge, everyone)
    present = ~(np.isnan(cosine) | np.isnan(rate))
    headline = present & np.array([name in case.personas for name in everyone])
    rho = spearman(cosine[present], rate[present])
    test = permutation_test(
        cosine[present],
        rate[present],
        permutations=case.experiment.analysis.permutations,
        rng=stream(case.plan.seed, "geometry", layer),
    )
    absent = [name for name, there in zip(everyone, present, strict=True) if not there]
    reason = f"no cosine or no bridge for {', '.join(absent)}" if absent else None
    if np.isnan(rho):
        reason = reason or "a constant has no ranking"
    return CosineLayer(
        n=int(present.sum()),
        rho=defined(rho),
        permutation_p=test and test.p,
        n_headline=int(headline.sum()),
        rho_headline=defined(spearman(cosine[headline], rate[headline])),
        reason=reason,
    )
