"""How often the answers are right: gates, inversion and kills on tables of known truth."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from steerproof.decide.analysis.inversion import noise_of, observed_rho, tails
from steerproof.decide.analysis.kills import kills
from steerproof.decide.analysis.kills_v2 import LEVEL, not_specific, sign_inverted_p
from steerproof.decide.analysis.reliability import attainable, reliability
from steerproof.decide.analysis.resampling import Resampling, rates, stream
from steerproof.decide.analysis.rule import Verdict, outcomes, verdict_of
from steerproof.decide.review.power import Trial, arm_rates, counts_of, judge
from steerproof.decide.review.simulation import SimulatedTables, simulate
from steerproof.spec.judging import AnswerSettings

CHUNK = 100
"""Simulated experiments that are judged together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedTrial:
    """What is simulated, and by which numbers it is judged."""

    trial: Trial
    """Sizes, rates, the registered rule, simulations and iterations."""
    answers: AnswerSettings = field(default_factory=AnswerSettings)
    draws: int = 400
    """Simulated tables inside every inversion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedPoint:
    """What happens at one true correlation among the personas of each experiment."""

    rho: float
    simulations: int
    registered: dict[str, float]
    """Share of SUPPORTED, REFUTED and INCONCLUSIVE, by the registered rule."""
    gated: dict[str, float]
    """Share of these and of CANNOT ANSWER, by attainable rho and inversion."""
    gate_alone_refuted: float
    """Share that passes the gate and that the registered rule refutes."""
    attainable: float
    """Mean attainable correlation, as estimated."""
    inversion_covers: float | None
    """Share of the experiments that pass the gate whose interval holds the truth."""
    inversion_covers_all: float
    """The same over all experiments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """One chunk."""

    registered: Float[np.ndarray, " simulations"]
    """Index into the verdicts."""
    passes: Bool[np.ndarray, " simulations"]
    """The attainable correlation is high enough."""
    attainable: Float[np.ndarray, " simulations"]
    refuted: Bool[np.ndarray, " simulations"]
    above_zero: Bool[np.ndarray, " simulations"]
    covers: Bool[np.ndarray, " simulations"]


_VERDICTS = tuple(Verdict)


def gated_point(given: GatedTrial, rho: float) -> GatedPoint:
    """Judge simulated experiments whose true correlation among their personas is `rho`."""
    sizes = [
        min(CHUNK, given.trial.simulations - i) for i in range(0, given.trial.simulations, CHUNK)
    ]
    chunks = [_chunk(given, rho, i, size) for i, size in enumerate(sizes)]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    registered, passes = joined("registered"), joined("passes")
    refuted = passes & joined("refuted")
    supported = registered == _VERDICTS.index(Verdict.SUPPORTED)
    supported = passes & ~refuted & supported & joined("above_zero")
    covers = joined("covers")
    gate_alone = passes & (registered == _VERDICTS.index(Verdict.REFUTED))
    return GatedPoint(
        rho=rho,
        simulations=len(registered),
        registered={str(v): float(np.mean(registered == i)) for i, v in enumerate(_VERDICTS)},
        gated={
            "SUPPORTED": float(supported.mean()),
            "REFUTED": float(refuted.mean()),
            "INCONCLUSIVE": float((passes & ~refuted & ~supported).mean()),
            "CANNOT ANSWER": float((~passes).mean()),
        },
        gate_alone_refuted=float(gate_alone.mean()),
        attainable=float(joined("attainable").mean()),
        inversion_covers=float(covers[passes].mean()) if passes.any() else None,
        inversion_covers_all=float(covers.mean()),
    )


def _chunk(given: GatedTrial, rho: float, chunk: int, simulations: int) -> _Judged:
    trial = given.trial
    rng = stream(trial.seed, "gated", f"{rho:g}", chunk)
    tables = simulate(trial.design, trial.model, rho, simulations, rng, among=True)
    plan = Resampling(seed=int(rng.integers(2**31)), iterations=trial.iterations)
    outcome = judge(tables, trial, plan, 0).outcome
    verdicts = [_VERDICTS.index(verdict_of(outcomes()[int(o)])) for o in outcome]
    bridge, steered = (cells / trial.design.samples for cells in (tables.bridge, tables.steered))
    value = attainable(reliability(bridge), reliability(steered))
    step = 1 / (trial.design.samples * trial.design.questions)
    left, right = (
        noise_of(cells, draws=given.draws, rng=rng, step=step) for cells in (bridge, steered)
    )
    observed = np.nan_to_num(observed_rho(bridge, steered))
    threshold = trial.analysis.thresholds.rho
    below = tails(left, right, observed, threshold, rng).below
    zero = tails(left, right, observed, 0.0, rng)
    truth = tails(left, right, observed, rho, rng)
    return _Judged(
        registered=np.array(verdicts, dtype=float),
        passes=value >= given.answers.attainable,
        attainable=value,
        refuted=below <= given.answers.refuted_p,
        above_zero=zero.above <= 0.025,
        covers=(truth.below > 0.025) & (truth.above > 0.025),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KillRates:
    """How often the two kills fire, in both versions."""

    sign_inverted: float
    sign_inverted_v2: float
    direction_not_specific: float
    direction_not_specific_v2: float


def kill_rates(trial: Trial, simulations: int) -> KillRates:
    """Simulate the kills under a model: without an effect, all of their firing is false.

    Args:
        trial: Sizes and rates; `model.prompt_gain` 0 is no effect of the push under the prompt.
        simulations: Experiments.
    """
    rng = stream(trial.seed, "kill-rates", repr(trial.model))
    tables = simulate(trial.design, trial.model, 0.0, simulations, rng)
    return _kills_of(tables, trial)


def _kills_of(
    tables: SimulatedTables, trial: Trial, answers: AnswerSettings | None = None
) -> KillRates:
    """Both versions of both kills on the same tables; the text is taken to be coherent."""
    limits, analysis = answers or AnswerSettings(), trial.analysis
    total = np.full(tables.bridge.shape[:2], float(trial.design.samples))
    old = kills(arm_rates(tables, total), analysis)

    def rate(cells: np.ndarray) -> np.ndarray:
        return rates(counts_of(cells, total))

    p = sign_inverted_p(rate(tables.prompted), rate(tables.prompted_steered))
    specific = not_specific(
        rate(tables.steered),
        rate(tables.isotropic),
        rate(tables.bridge),
        margin=limits.least_rate,
        rho_margin=analysis.thresholds.specific_rho,
    )
    return KillRates(
        sign_inverted=float(np.mean(old["sign_inverted"].fired == 1)),
        sign_inverted_v2=float(np.mean(p <= LEVEL)),
        direction_not_specific=float(np.mean(old["direction_not_specific"].fired == 1)),
        direction_not_specific_v2=float(np.mean(specific.fired)),
    )
