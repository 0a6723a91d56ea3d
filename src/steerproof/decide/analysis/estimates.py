"""One arm at one strength against the bridge: rho, its intervals, and how far to trust them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.case import (
    Case,
    interval_of,
    missing_personas,
    no_resampling,
    rates_of,
    totals_of,
    undefined_reason,
)
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.permutation import permutation_test
from steerproof.decide.analysis.records import Bounds, Histogram, StrengthResult, truth
from steerproof.decide.analysis.resampling import (
    Counts,
    Interval,
    registered_draws,
    stream,
    two_level_draws,
)
from steerproof.decide.analysis.rule import Seen, passes, seen_of
from steerproof.decide.analysis.statistics import defined, is_constant, kendall_tau, spearman
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import Strength

_BINS = 80
"""Bins of a bootstrap histogram, from -1 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEstimate:
    """What is reported of one arm at one strength, and what the rule sees of it."""

    result: StrengthResult
    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """A bootstrap distribution, summarised."""

    interval: Interval | None = None
    bounds: Bounds | None = None
    undefined: int | None = None
    share: float | None = None
    histogram: Histogram | None = None
    reason: str | None = None


def estimate(case: Case, arm: str, strength: Strength) -> ArmEstimate:
    """Everything about one arm steered at one strength under the neutral prompt."""
    kind = steered_kind(case.experiment, arm, strength)
    steered, bridge = rates_of(case, kind), rates_of(case, case.bridge)
    missing = missing_personas(case, kind, case.bridge)
    registered = _registered_spread(case, kind, bridge)
    general = _two_level_spread(case, kind)
    seen = seen_of(steered, bridge, registered.interval)
    present = ~(np.isnan(steered) | np.isnan(bridge))
    left, right = steered[present], bridge[present]
    test = permutation_test(
        left,
        right,
        permutations=case.experiment.analysis.permutations,
        rng=stream(case.plan.seed, "permutation", kind.name),
    )
    reasons = (_rho_reason(case, kind, left, right, missing), registered.reason, general.reason)
    result = StrengthResult(
        strength=str(kind.strength),
        n=int(present.sum()),
        missing=missing,
        rho=defined(seen.rho),
        interval=registered.bounds,
        two_level=general.bounds,
        reason="; ".join(dict.fromkeys(r for r in reasons if r)) or None,
        leave_one_out=_leave_one_out(left, right),
        permutation_p=test and test.p,
        permutation_method=test and test.method,
        kendall_tau=defined(kendall_tau(left, right)),
        undefined_resamples=registered.undefined,
        undefined_share=registered.share,
        two_level_undefined_share=general.share,
        passes=truth(passes(seen, case.experiment.analysis)),
        rates={p: defined(r) for p, r in zip(case.personas, steered, strict=True)},
        distribution=registered.histogram,
        two_level_distribution=general.histogram,
    )
    return ArmEstimate(result=result, seen=seen)


def _rho_reason(
    case: Case,
    kind: CellKind,
    steered: Float[np.ndarray, " present"],
    bridge: Float[np.ndarray, " present"],
    missing: tuple[str, ...],
) -> str | None:
    """Why rho is undefined or rests on fewer personas than registered."""
    parts = []
    if len(missing) == len(case.personas):
        return f"no cells of {kind.name}"
    if missing:
        parts.append(
            f"n = {len(steered)} of {len(case.personas)}: no rate for {', '.join(missing)}"
        )
    for name, values in (("steered", steered), ("bridge", bridge)):
        if is_constant(values):
            parts.append(f"every {name} rate is {values[0]:.3g}: a constant has no ranking")
    return "; ".join(parts) or None


def _leave_one_out(
    left: Float[np.ndarray, " personas"], right: Float[np.ndarray, " personas"]
) -> Bounds | None:
    """Smallest and largest rho over the personas left out; None if one of them is undefined."""
    if len(left) < 3:
        return None
    without = np.where(np.eye(len(left), dtype=bool), np.nan, left[:, None])
    rhos = spearman(without, right[:, None])
    return None if np.isnan(rhos).any() else (float(rhos.min()), float(rhos.max()))


def _registered_spread(
    case: Case, kind: CellKind, bridge: Float[np.ndarray, " personas"]
) -> _Spread:
    """The registered interval: questions resampled inside personas, the bridge fixed."""
    if missing_personas(case, kind, case.bridge):
        return _Spread(reason="no interval: the registered one needs every headline persona")
    sampled = case.draws.of(kind)
    if sampled is None:
        return _Spread(reason=no_resampling(case, kind))
    return _spread_of(case, registered_draws(sampled.draws, bridge))


def _two_level_spread(case: Case, kind: CellKind) -> _Spread:
    """Personas resampled with both of their rates, then questions inside them."""
    steered = case.draws.of(kind)
    if steered is None or missing_personas(case, case.bridge):
        return _Spread()
    bridge = case.draws.of(case.bridge)
    totals = bridge.counts if bridge else _fixed_counts(case, case.bridge)
    same = bridge is not None and bridge.labels == steered.labels
    return _spread_of(case, two_level_draws(steered.counts, totals, case.plan, same_questions=same))


def _fixed_counts(case: Case, kind: CellKind) -> Counts:
    """Totals as a single question: resampling it changes nothing."""
    total = totals_of(case, kind)
    fired = rates_of(case, kind) * total
    return Counts(
        fired=fired[:, None],
        total=total[:, None],
        questions=np.ones(len(total), dtype=np.int64),
    )


def _spread_of(case: Case, draws: Float[np.ndarray, " iterations"]) -> _Spread:
    """Bounds, undefined share and histogram of some draws."""
    interval = interval_of(case, draws)
    counts, edges = np.histogram(draws[~np.isnan(draws)], bins=_BINS, range=(-1.0, 1.0))
    histogram = Histogram(
        edges=tuple(float(e) for e in edges), counts=tuple(int(c) for c in counts)
    )
    undefined = bool(np.isnan(interval.low))
    return _Spread(
        interval=interval,
        bounds=None if undefined else (float(interval.low), float(interval.high)),
        undefined=int(interval.undefined),
        share=float(interval.share),
        histogram=histogram,
        reason=undefined_reason(case, interval) if undefined else None,
    )
