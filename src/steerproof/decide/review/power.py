"""How often the rule is right: the real decision code on simulated experiments of known truth."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from steerproof.decide.analysis.kills import ArmRates, kills
from steerproof.decide.analysis.resampling import (
    Counts,
    Interval,
    Resampling,
    percentile_interval,
    rate_draws,
    rates,
    registered_draws,
    stream,
    two_level_draws,
)
from steerproof.decide.analysis.rule import (
    ControlFlags,
    Verdict,
    decide,
    outcomes,
    passes,
    seen_of,
    verdict_of,
)
from steerproof.decide.analysis.statistics import spearman
from steerproof.decide.review.simulation import Cells, Design, RateModel, SimulatedTables, simulate
from steerproof.spec.experiment import Experiment
from steerproof.spec.judging import AnalysisSettings

CHUNK = 50
"""Simulated experiments that are decided together."""
_THREADS = min(8, os.cpu_count() or 1)
"""They change nothing but time."""
_RHOS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""True correlations at which the rule is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is simulated, and how thoroughly."""

    design: Design = field(default_factory=Design)
    model: RateModel = field(default_factory=RateModel)
    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)
    """The rule; its number of iterations is replaced by `iterations`."""
    simulations: int = 400
    """Experiments for every true correlation."""
    iterations: int = 1_000
    """Bootstrap iterations inside every simulated experiment."""
    covered: int = 100
    """Experiments of which the two-level interval is also made; it is the slow one."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How often an interval contains what it is meant to contain."""

    share: float | None
    """Share of the intervals that exist; None if there is none."""
    n: int
    """Intervals."""
    width: float | None
    """Mean width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happens at one true correlation."""

    rho: float
    """True Spearman correlation over all personas."""
    simulations: int
    verdicts: dict[str, float]
    """Share of SUPPORTED, REFUTED and INCONCLUSIVE."""
    passes: float
    """Share in which the tested arm passes, whatever the kills and controls."""
    outcomes: dict[str, float]
    """Share of every reason that occurred."""
    kills: dict[str, float]
    """Share in which each kill fired."""
    kill_undecided: float
    """Share in which at least one kill could not be decided."""
    registered_measured: Coverage
    """Registered interval, for the true steered rates' correlation with the *measured* bridge."""
    registered_these: Coverage
    """Registered interval, for the correlation of the true rates of exactly these personas."""
    registered_general: Coverage
    """The same interval, for the correlation over all personas: not what it is made for."""
    two_level_general: Coverage
    """Two-level interval, for the correlation over all personas."""

    @property
    def supported(self) -> float:
        """Share of SUPPORTED."""
        return self.verdicts[Verdict.SUPPORTED]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingCharacteristics:
    """The rule's error rates under a stated model."""

    trial: Trial
    points: tuple[Point, ...]
    minimum_detectable_rho: float | None
    """Smallest true correlation that is SUPPORTED in 80% of the experiments; None if none is."""
    power: float
    """That share, 0.8."""
    reason: str | None
    """Why there is no such correlation."""

    @property
    def false_supported(self) -> float | None:
        """Share SUPPORTED although the true correlation is 0; None if 0 was not tried."""
        null = [point for point in self.points if point.rho == 0]
        return null[0].supported if null else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The decisions on one chunk of simulated experiments."""

    outcome: Int[np.ndarray, " simulations"]
    passed: Bool[np.ndarray, " simulations"]
    kills: dict[str, Float[np.ndarray, " simulations"]]
    interval: Interval
    measured: Float[np.ndarray, " simulations"]
    """Correlation among the simulated personas: true steered rates, bridge as measured."""
    these: Float[np.ndarray, " simulations"]
    """Correlation of the true rates among the simulated personas."""
    two_level: Interval


def trial_of(experiment: Experiment, **changes: Any) -> Trial:
    """The sizes and the rule of an experiment, under the default rate model."""
    design = Design(
        personas=len(experiment.headline),
        questions=len(experiment.questions.evaluation),
        samples=experiment.generation.samples,
    )
    fields = {"design": design, "analysis": experiment.analysis, "seed": experiment.seed}
    return Trial(**{**fields, **changes})


def operating_characteristics(
    trial: Trial, rhos: Sequence[float] = _RHOS, *, power: float = 0.8
) -> OperatingCharacteristics:
    """Decide many simulated experiments at every true correlation.

    Args:
        trial: What is simulated.
        rhos: True correlations, rising.
        power: Share SUPPORTED that counts as detecting.
    """
    sizes = [min(CHUNK, trial.simulations - i) for i in range(0, trial.simulations, CHUNK)]
    tasks = [(rho, chunk, size) for rho in rhos for chunk, size in enumerate(sizes)]
    with ThreadPoolExecutor(_THREADS) as pool:
        judged = list(pool.map(lambda task: _judge_chunk(trial, *task), tasks))
    points = tuple(
        _summarise(rho, judged[i * len(sizes) : (i + 1) * len(sizes)]) for i, rho in enumerate(rhos)
    )
    detected = detectable([p.rho for p in points], [point.supported for point in points], power)
    most = max(point.supported for point in points)
    return OperatingCharacteristics(
        trial=trial,
        points=points,
        minimum_detectable_rho=detected,
        power=power,
        reason=None
        if detected is not None
        else f"at most {most:.0%} are SUPPORTED up to a true correlation of {rhos[-1]:g}",
    )


def _judge_chunk(trial: Trial, rho: float, chunk: int, simulations: int) -> Judged:
    """Simulate and decide some experiments; the numbers depend on the arguments alone."""
    names = (f"{rho:g}", chunk)
    rng = stream(trial.seed, "power", *names)
    tables = simulate(trial.design, trial.model, rho, simulations, rng)
    picks = int(stream(trial.seed, "power-picks", *names).integers(2**31))
    wanted = max(0, min(simulations, trial.covered - chunk * CHUNK))
    return judge(tables, trial, Resampling(seed=picks, iterations=trial.iterations), wanted)


def judge(tables: SimulatedTables, trial: Trial, plan: Resampling, covered: int) -> Judged:
    """Apply the registered rule to simulated tables.

    Args:
        tables: Counts of every cell.
        trial: The rule's numbers.
        plan: Bootstrap iterations and seed, shared by the tables of the chunk.
        covered: How many of the tables also get a two-level interval.
    """
    analysis = trial.analysis
    total = np.full(tables.bridge.shape[:2], float(trial.design.samples))
    bridge = rates(counts_of(tables.bridge, total))
    arms = counts_of(
        np.concatenate([tables.steered, tables.baseline, tables.isotropic], axis=-1), total
    )
    draws = registered_draws(rate_draws(arms, plan), np.tile(bridge, 3))
    intervals = [interval_of(part, analysis) for part in np.split(draws, 3, axis=-1)]
    steered, baseline, isotropic = (
        seen_of(cells, bridge, interval)
        for cells, interval in zip(np.split(rates(arms), 3, axis=-1), intervals, strict=True)
    )
    killed = kills(arm_rates(tables, total), analysis)
    controls = ControlFlags(
        isotropic_passes=passes(isotropic, analysis), baseline_passes=passes(baseline, analysis)
    )
    general = two_level_draws(
        counts_of(tables.steered[..., :covered], total),
        counts_of(tables.bridge[..., :covered], total),
        plan,
        same_questions=True,
    )
    return Judged(
        outcome=decide(steered, killed, controls, analysis),
        passed=passes(steered, analysis) == 1,
        kills={name: kill.fired for name, kill in killed.items()},
        interval=intervals[0],
        measured=spearman(tables.true_steered, bridge),
        these=spearman(tables.true_steered, tables.true_bridge),
        two_level=interval_of(general, analysis),
    )


def arm_rates(tables: SimulatedTables, total: Float[np.ndarray, "personas questions"]) -> ArmRates:
    """What the kills look at; the sweep is the steered cell alone."""
    steered = rates(counts_of(tables.steered, total))
    return ArmRates(
        bridge=rates(counts_of(tables.bridge, total)),
        steered=steered,
        unsteered=rates(counts_of(tables.unsteered, total)),
        prompted=rates(counts_of(tables.prompted, total)),
        prompted_steered=rates(counts_of(tables.prompted_steered, total)),
        sweep=steered[None],
        isotropic=rates(counts_of(tables.isotropic, total)),
        steered_total=total.sum(axis=1),
        isotropic_total=total.sum(axis=1),
    )


def counts_of(fired: Cells, total: Float[np.ndarray, "personas questions"]) -> Counts:
    """Simulated cells as counts; every persona was asked every question."""
    return Counts(fired=fired, total=total, questions=np.full(len(total), total.shape[1]))


def interval_of(
    draws: Float[np.ndarray, "iterations simulations"], analysis: AnalysisSettings
) -> Interval:
    """The registered percentile interval of every simulated experiment."""
    return percentile_interval(
        draws, confidence=analysis.confidence, max_undefined=analysis.max_undefined
    )


def _summarise(rho: float, chunks: Sequence[Judged]) -> Point:
    """Shares over all experiments at one true correlation."""
    names = outcomes()
    outcome = np.concatenate([chunk.outcome for chunk in chunks])
    shares = np.bincount(outcome, minlength=len(names)) / len(outcome)
    verdicts = {
        str(v): float(sum(s for s, o in zip(shares, names, strict=True) if verdict_of(o) is v))
        for v in Verdict
    }
    fired = {
        name: np.concatenate([chunk.kills[name] for chunk in chunks]) for name in chunks[0].kills
    }
    low, high = _joined_bounds([chunk.interval for chunk in chunks])
    wide_low, wide_high = _joined_bounds([chunk.two_level for chunk in chunks])
    return Point(
        rho=rho,
        simulations=len(outcome),
        verdicts=verdicts,
        passes=float(np.mean(np.concatenate([chunk.passed for chunk in chunks]))),
        outcomes={str(o): float(s) for o, s in zip(names, shares, strict=True) if s > 0},
        kills={name: float(np.mean(values == 1)) for name, values in fired.items()},
        kill_undecided=float(np.isnan(np.array(list(fired.values()))).any(axis=0).mean()),
        registered_measured=coverage(low, high, np.concatenate([c.measured for c in chunks])),
        registered_these=coverage(low, high, np.concatenate([c.these for c in chunks])),
        registered_general=coverage(low, high, np.full_like(low, rho)),
        two_level_general=coverage(wide_low, wide_high, np.full_like(wide_low, rho)),
    )


def _joined_bounds(
    intervals: Sequence[Interval],
) -> tuple[Float[np.ndarray, " simulations"], Float[np.ndarray, " simulations"]]:
    """Lower and upper bounds of all chunks."""
    return np.concatenate([i.low for i in intervals]), np.concatenate([i.high for i in intervals])


def coverage(
    low: Float[np.ndarray, " simulations"],
    high: Float[np.ndarray, " simulations"],
    truth: Float[np.ndarray, " simulations"],
) -> Coverage:
    """Share of the intervals that contain the truth, where both are defined."""
    known = ~(np.isnan(low) | np.isnan(truth))
    inside = (low <= truth) & (truth <= high)
    if not known.any():
        return Coverage(share=None, n=0, width=None)
    return Coverage(
        share=float(inside[known].mean()),
        n=int(known.sum()),
        width=float((high - low)[known].mean()),
    )


def detectable(rhos: Sequence[float], shares: Sequence[float], power: float) -> float | None:
    """Where the share SUPPORTED first reaches the power, between two tried correlations.

    Simulated shares need not rise everywhere; the largest share so far is what counts.
    """
    reached = np.maximum.accumulate(shares)
    if reached[-1] < power:
        return None
    above = int(np.argmax(reached >= power))
    if above == 0:
        return float(rhos[0])
    step = (power - reached[above - 1]) / (reached[above] - reached[above - 1])
    return float(rhos[above - 1] + step * (rhos[above] - rhos[above - 1]))


def to_json(characteristics: OperatingCharacteristics) -> dict[str, Any]:
    """The error rates as JSON values, the model that they are true of first."""
    registered = characteristics.trial.analysis.model_dump(mode="json")
    trial = asdict(characteristics.trial) | {"analysis": registered}
    return {
        "trial": trial,
        "points": [asdict(point) for point in characteristics.points],
        "power": characteristics.power,
        "minimum_detectable_rho": characteristics.minimum_detectable_rho,
        "reason": characteristics.reason,
        "false_supported": characteristics.false_supported,
    }
