"""One arm: its cells, its rates at the registered strengths, and the kills that they decide."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from steerproof.decide.analysis.case import Case, rates_of, totals_of, why_undefined
from steerproof.decide.analysis.estimates import ArmEstimate, estimate
from steerproof.decide.analysis.kills import ArmCells, ArmRates, Criterion, Kill, criteria, kills
from steerproof.decide.analysis.kinds import arm_cells, steered_kind
from steerproof.decide.analysis.records import ArmResult, KillResult, truth
from steerproof.decide.analysis.statistics import defined, mean_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedArm:
    """One arm as the rule sees it, and as it is reported."""

    name: str
    primary: ArmEstimate
    kills: Mapping[str, Kill]
    result: ArmResult


def judge_arm(case: Case, name: str) -> JudgedArm:
    """Everything that is said of one arm by itself."""
    analysis = case.experiment.analysis
    trained = case.experiment.arm(name)
    cells = arm_cells(case.experiment, name, case.kinds)
    rates = _arm_rates(case, cells)
    means = {"unsteered": rates.unsteered, "prompted": rates.prompted, "primary": rates.steered}
    primary, co_primary = estimate(case, name, analysis.primary_strength), None
    if analysis.co_primary_strength is not None:
        other = steered_kind(case.experiment, name, analysis.co_primary_strength)
        co_primary = estimate(case, name, analysis.co_primary_strength).result
        means |= {"co_primary": rates_of(case, other)}
    killed = kills(rates, analysis)
    result = ArmResult(
        direction=trained.steered_direction,
        layer=case.experiment.layer(trained.layer),
        mean_rates={cell: defined(mean_rate(values)) for cell, values in means.items()},
        primary=primary.result,
        co_primary=co_primary,
        kills={c.name: _kill_result(case, cells, c, killed[c.name]) for c in criteria()},
        passes=primary.result.passes,
    )
    return JudgedArm(name=name, primary=primary, kills=killed, result=result)


def _arm_rates(case: Case, cells: ArmCells) -> ArmRates:
    sweep = [rates_of(case, kind) for kind in cells.sweep]
    return ArmRates(
        bridge=rates_of(case, cells.bridge),
        steered=rates_of(case, cells.steered),
        unsteered=rates_of(case, cells.unsteered),
        prompted=rates_of(case, cells.prompted),
        prompted_steered=rates_of(case, cells.prompted_steered),
        sweep=np.array(sweep).reshape(len(sweep), len(case.personas)),
        isotropic=rates_of(case, cells.isotropic),
        steered_total=totals_of(case, cells.steered),
        isotropic_total=totals_of(case, cells.isotropic),
    )


def _kill_result(case: Case, cells: ArmCells, criterion: Criterion, kill: Kill) -> KillResult:
    """A criterion with None for NaN, and why."""
    values = {name: defined(value) for name, value in kill.numbers.items()}
    counts = {k: int(v) for k, v in values.items() if k.startswith("n") and v is not None}
    undefined = np.isnan(kill.fired) or None in values.values()
    return KillResult(
        fired=truth(kill.fired),
        reason=_kill_reason(case, cells, criterion) if undefined else None,
        numbers={**values, **counts},
    )


def _kill_reason(case: Case, cells: ArmCells, criterion: Criterion) -> str:
    """Which cells of a criterion are missing or constant."""
    kinds = criterion.cells(cells)
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return "no isotropic cells of this arm, and no isotropic arm to compare with"
    reasons = [why_undefined(case, kind) for kind in known]
    return "; ".join(reason for reason in reasons if reason) or "undefined"
