"""One arm at one strength against the bridge: rho, its intervals, and how far to trust them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steerproof.decide.analysis.permutation import permutation_test
from steerproof.decide.analysis.rates import CellKind
from steerproof.decide.analysis.records import Bounds, Histogram, StrengthResult, number, truth
from steerproof.decide.analysis.resampling import (
    Counts,
    Interval,
    registered_draws,
    stream,
    two_level_draws,
)
from steerproof.decide.analysis.rule import Evidence, evidence_of, passes
from steerproof.decide.analysis.statistics import is_constant, kendall_tau, spearman
from steerproof.decide.analysis.tested import (
    Study,
    interval_of,
    missing_personas,
    no_resampling,
    rates_of,
    sampled_cells,
    steered_kind,
    totals_of,
    undefined_reason,
)
from steerproof.spec.strength import Strength

BINS = 80
"""Bins of a bootstrap histogram, from -1 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is reported of one arm at one strength, and what the rule sees of it."""

    result: StrengthResult
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A bootstrap distribution, summarised."""

    interval: Interval | None = None
    bounds: Bounds | None = None
    undefined: int | None = None
    share: float | None = None
    histogram: Histogram | None = None
    reason: str | None = None


def estimate(study: Study, arm: str, strength: Strength) -> Estimate:
    """Everything about one arm steered at one strength under the neutral prompt."""
    kind = steered_kind(study, arm, strength)
    steered, bridge = rates_of(study, kind), rates_of(study, study.bridge)
    missing = missing_personas(study, kind, study.bridge)
    registered = registered_spread(study, kind, bridge)
    general = two_level_spread(study, kind)
    evidence = evidence_of(steered, bridge, registered.interval)
    present = ~(np.isnan(steered) | np.isnan(bridge))
    left, right = steered[present], bridge[present]
    test = permutation_test(
        left,
        right,
        permutations=study.experiment.analysis.permutations,
        rng=stream(study.plan.seed, "permutation", kind.name),
    )
    reasons = (rho_reason(study, kind, left, right, missing), registered.reason, general.reason)
    result = StrengthResult(
        strength=str(kind.strength),
        n=int(present.sum()),
        missing=missing,
        rho=number(evidence.rho),
        interval=registered.bounds,
        two_level=general.bounds,
        reason="; ".join(dict.fromkeys(r for r in reasons if r)) or None,
        leave_one_out=leave_one_out(left, right),
        permutation_p=test and test.p,
        permutation_method=test and test.method,
        kendall_tau=number(kendall_tau(left, right)),
        undefined_resamples=registered.undefined,
        undefined_share=registered.share,
        two_level_undefined_share=general.share,
        passes=truth(passes(evidence, study.limits)),
        rates={p: number(r) for p, r in zip(study.personas, steered, strict=True)},
        distribution=registered.histogram,
        two_level_distribution=general.histogram,
    )
    return Estimate(result=result, evidence=evidence)


def rho_reason(
    study: Study,
    kind: CellKind,
    steered: Float[np.ndarray, " present"],
    bridge: Float[np.ndarray, " present"],
    missing: tuple[str, ...],
) -> str | None:
    """Why rho is undefined or rests on fewer personas than registered."""
    parts = []
    if len(missing) == len(study.personas):
        return f"no cells of {kind.name}"
    if missing:
        parts.append(
            f"n = {len(steered)} of {len(study.personas)}: no rate for {', '.join(missing)}"
        )
    for name, values in (("steered", steered), ("bridge", bridge)):
        if is_constant(values):
            parts.append(f"every {name} rate is {values[0]:.3g}: a constant has no ranking")
    return "; ".join(parts) or None


def leave_one_out(
    left: Float[np.ndarray, " personas"], right: Float[np.ndarray, " personas"]
) -> Bounds | None:
    """Smallest and largest rho over the personas left out; None if one of them is undefined."""
    if len(left) < 3:
        return None
    without = np.where(np.eye(len(left), dtype=bool), np.nan, left[:, None])
    found = spearman(without, right[:, None])
    return None if np.isnan(found).any() else (float(found.min()), float(found.max()))


def registered_spread(
    study: Study, kind: CellKind, bridge: Float[np.ndarray, " personas"]
) -> Spread:
    """The registered interval: questions resampled inside personas, the bridge fixed."""
    if missing_personas(study, kind, study.bridge):
        return Spread(reason="no interval: the registered one needs every headline persona")
    found = sampled_cells(study, kind)
    if found is None:
        return Spread(reason=no_resampling(study, kind))
    return spread_of(study, registered_draws(found.draws, bridge))


def two_level_spread(study: Study, kind: CellKind) -> Spread:
    """Personas resampled with both of their rates, then questions inside them."""
    found = sampled_cells(study, kind)
    if found is None or missing_personas(study, study.bridge):
        return Spread()
    bridge = sampled_cells(study, study.bridge)
    totals = bridge.counts if bridge else fixed_counts(study, study.bridge)
    same = bridge is not None and bridge.labels == found.labels
    return spread_of(study, two_level_draws(found.counts, totals, study.plan, same_questions=same))


def fixed_counts(study: Study, kind: CellKind) -> Counts:
    """Totals as a single question: resampling it changes nothing."""
    total = totals_of(study, kind)
    fired = rates_of(study, kind) * total
    return Counts(
        fired=fired[:, None],
        total=total[:, None],
        questions=np.ones(len(total), dtype=np.int64),
    )


def spread_of(study: Study, draws: Float[np.ndarray, " iterations"]) -> Spread:
    """Bounds, undefined share and histogram of some draws."""
    interval = interval_of(study, draws)
    counts, edges = np.histogram(draws[~np.isnan(draws)], bins=BINS, range=(-1.0, 1.0))
    histogram = Histogram(
        edges=tuple(float(e) for e in edges), counts=tuple(int(c) for c in counts)
    )
    undefined = bool(np.isnan(interval.low))
    return Spread(
        interval=interval,
        bounds=None if undefined else (float(interval.low), float(interval.high)),
        undefined=int(interval.undefined),
        share=float(interval.share),
        histogram=histogram,
        reason=undefined_reason(study, interval) if undefined else None,
    )
