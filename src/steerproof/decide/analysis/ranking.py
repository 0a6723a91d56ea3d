"""The ranking: may the steered rates be compared with the bridge, and what do they say then?

The gates decide whether there is an answer; then the noise of both rankings is inverted. Where the
primary strength breaks the text or pushes some personas harder than others, the ratio that was
trained decides instead.
"""

from dataclasses import dataclass

import numpy as np

from steerproof.decide.analysis import gates
from steerproof.decide.analysis.answer_records import Ranking, RankingAnswer, RevisedKill
from steerproof.decide.analysis.case import Case, rates_of
from steerproof.decide.analysis.estimates import estimate
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.inversion import Inversion, invert, noise_of, observed_rho
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.rates import cell_counts
from steerproof.decide.analysis.reliability import Values, reliability
from steerproof.decide.analysis.resampling import stream
from steerproof.decide.analysis.rig import Rig, push_sizes, text_of
from steerproof.spec.grid import CellKind
from steerproof.spec.strength import NONE, Strength

_MOVING = ("coherent", "equal_dose")
"""Gates that the trained ratio may pass where the primary strength does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rates by persona and question of one kind of cell, and the grid of their means."""

    values: Values
    step: float
    """One over the completions of a persona."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthGated:
    """One strength of one arm: its gates."""

    strength: Strength
    gates: tuple[Gate, ...]

    @property
    def failing(self) -> tuple[Gate, ...]:
        """Fatal gates that fail."""
        return tuple(gate for gate in self.gates if gate.fatal and gate.passed is False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthTried(StrengthGated):
    """One strength of one arm: gates, and the inversion where it can be made."""

    inversion: Inversion | None
    reason: str | None
    """Why there is no inversion."""


def crossed(case: Case, kind: CellKind) -> Table | str:
    """Rates of every persona on the same questions, or why there are none."""
    counted = cell_counts(case.table, kind, case.personas)
    if counted is None:
        return f"{kind.name}: not every persona has a rate for every question"
    counts, labels = counted
    if len(set(labels)) > 1 or len(labels[0]) < 2:
        return f"{kind.name}: the personas were not asked the same questions"
    totals = counts.total.sum(axis=1)
    return Table(values=counts.fired / counts.total, step=float(1 / totals.min()))


def _other_prompts(case: Case, arm: str) -> tuple[np.ndarray, int]:
    """Mean rate of each adapter under every other prompt that was measured, and how many."""
    neutral = rates_of(case, steered_kind(case.experiment, arm, NONE))
    prompts = [neutral]
    for name in case.personas:
        # An adapter's own prompt is a cell that names nobody's, and so is none of these.
        prompts.append(rates_of(case, CellKind(arm=arm, prompt="persona", prompt_of=name)))
    rates = np.array(prompts)
    known = ~np.isnan(rates)
    total = np.where(known, rates, 0.0).sum(axis=0)
    means = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
    return means, int(known.sum(axis=0).max())


def gate_strength(case: Case, rig: Rig, arm: str, strength: Strength) -> StrengthGated:
    """The gates of one arm at one strength."""
    experiment, limits = case.experiment, case.experiment.answers
    kind = steered_kind(experiment, arm, strength)
    bridge_arm = experiment.analysis.bridge_arm
    others, prompts = _other_prompts(case, bridge_arm)
    install = gates.installed(rates_of(case, case.bridge), others, limits, bridge_arm, prompts)
    sizes = push_sizes(case, rig, kind)
    dose = gates.equal_dose(sizes, rates_of(case, kind), limits, str(strength))
    whole = _coherent(case, rig, arm, strength)
    bridge, steered = crossed(case, case.bridge), crossed(case, kind)
    if isinstance(bridge, str) or isinstance(steered, str):
        reason = bridge if isinstance(bridge, str) else str(steered)
        limit = f"{limits.attainable:g} or more"
        attainable = gates.unknown("attainable", reason, limit=limit)
    else:
        attainable = gates.attainable_rho(
            reliability(bridge.values),
            reliability(steered.values),
            bridge.values.shape[1],
            limits,
            str(strength),
        )
    return StrengthGated(strength=strength, gates=(install, attainable, whole, dose))


def _tried(case: Case, arm: str, gated: StrengthGated) -> StrengthTried:
    """A strength with its inversion, or why there is none."""
    kind = steered_kind(case.experiment, arm, gated.strength)
    bridge, steered = crossed(case, case.bridge), crossed(case, kind)
    inversion, reason = None, "a constant has no ranking"
    if isinstance(bridge, str) or isinstance(steered, str):
        reason = bridge if isinstance(bridge, str) else str(steered)
    elif not np.isnan(observed_rho(bridge.values, steered.values)):
        inversion = _inverted(case, kind, bridge, steered)
    return StrengthTried(
        strength=gated.strength,
        gates=gated.gates,
        inversion=inversion,
        reason=reason if inversion is None else None,
    )


def _coherent(case: Case, rig: Rig, arm: str, strength: Strength) -> Gate:
    analysis, limits = case.experiment.analysis, case.experiment.answers
    arms = dict.fromkeys((arm, analysis.isotropic_arm, analysis.bridge_arm))
    steered, unsteered = {}, {}
    for name in arms:
        if name is None:
            continue
        text = text_of(rig, steered_kind(case.experiment, name, strength), case.personas)
        still = text_of(rig, steered_kind(case.experiment, name, NONE), case.personas)
        if text is not None:
            steered[name] = text
        if still is not None:
            unsteered[name] = still
    return gates.coherent(steered, unsteered, limits, str(strength))


def _inverted(case: Case, kind: CellKind, bridge: Table, steered: Table) -> Inversion:
    draws = case.experiment.answers.draws
    rng = stream(case.plan.seed, "inversion", kind.name)
    left, right = (noise_of(t.values, draws=draws, rng=rng, step=t.step) for t in (bridge, steered))
    return invert(
        left,
        right,
        float(observed_rho(bridge.values, steered.values)),
        threshold=case.experiment.analysis.thresholds.rho,
        rng=rng,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StrengthChosen:
    """The strength that decides beside the primary one, before any noise is inverted."""

    decides: StrengthGated
    primary: StrengthGated
    moved: str | None = None
    """Why they differ; None where the primary strength decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding(StrengthChosen):
    """The same, and what the rates say at the strength that decides."""

    decides: StrengthTried


def chosen(case: Case, rig: Rig, arm: str) -> StrengthChosen:
    """The strength that decides on the ranking of an arm: gates alone say which."""
    analysis = case.experiment.analysis
    primary = gate_strength(case, rig, arm, analysis.primary_strength)
    trained = case.experiment.arm(arm).training_strength
    other = analysis.co_primary_strength if trained == NONE else trained
    broken = [gate for gate in primary.failing if gate.name in _MOVING]
    if not broken or other is None or other == analysis.primary_strength:
        return StrengthChosen(decides=primary, primary=primary)
    if steered_kind(case.experiment, arm, other) not in case.kinds:
        return StrengthChosen(decides=primary, primary=primary)
    names = " and ".join(gate.name.replace("_", " ") for gate in broken)
    verb = "fail" if len(broken) > 1 else "fails"
    moved = f"{names} {verb} at {analysis.primary_strength}, so {other} decides"
    decides = gate_strength(case, rig, arm, other)
    return StrengthChosen(decides=decides, primary=primary, moved=moved)


def deciding(case: Case, rig: Rig, arm: str) -> Deciding:
    """The strength that decides on the ranking of an arm, and its inversion."""
    found = chosen(case, rig, arm)
    decides = _tried(case, arm, found.decides)
    return Deciding(decides=decides, primary=found.primary, moved=found.moved)


def answer_ranking(
    case: Case,
    arm: str,
    tried: Deciding,
    *,
    matrix: bool | None,
    kills: tuple[RevisedKill, ...],
) -> RankingAnswer:
    """The ranking's answer.

    Args:
        case: The table under its experiment.
        arm: The tested arm.
        tried: The strength that decides.
        matrix: The matrix bears a SUPPORTED; None where it was not measured.
        kills: The kills with error control.
    """
    decides, inversion = tried.decides, tried.decides.inversion
    threshold = case.experiment.analysis.thresholds.rho
    answer, reason = Ranking.CANNOT_ANSWER, "; ".join(gate.finding for gate in decides.failing)
    if not decides.failing:
        lacking = () if inversion is None else _lacking(case, arm, decides, inversion)
        lacking += tuple(kill.reason for kill in kills if kill.fired) + _without(matrix)
        answer, reason = _answer(decides, case, lacking)
    return RankingAnswer(
        answer=answer,
        reason=reason,
        strength=str(decides.strength),
        moved=tried.moved,
        gates=decides.gates,
        primary_gates=tried.primary.gates,
        rho=None if inversion is None else inversion.rho,
        interval=inversion.interval if inversion is not None and not decides.failing else None,
        p_threshold=None if inversion is None else inversion.p_below,
        threshold=threshold,
    )


def _answer(tried: StrengthTried, case: Case, lacking: tuple[str, ...]) -> tuple[Ranking, str]:
    """What a ranking that may be compared says."""
    inversion, limits = tried.inversion, case.experiment.answers
    threshold = case.experiment.analysis.thresholds.rho
    if inversion is None:
        return Ranking.INCONCLUSIVE, f"at {tried.strength}: {tried.reason}"
    finding = f"rho = {inversion.rho:z.2f} at {tried.strength}, {compatible(inversion)}"
    if inversion.p_below <= limits.refuted_p:
        return Ranking.REFUTED, (
            f"{finding}; so low a correlation has p = {inversion.p_below:.3f} if the true one is "
            f"{threshold:g}"
        )
    if lacking:
        return Ranking.INCONCLUSIVE, f"{finding}; {'; '.join(lacking)}"
    return Ranking.SUPPORTED, f"{finding}; the controls fail and the matrix bears it"


def compatible(inversion: Inversion) -> str:
    """The true correlations that are not excluded, in words."""
    if inversion.interval is None:
        return "which no true correlation explains"
    low, high = inversion.interval
    return f"compatible with a true correlation of {low:z.1f} to {high:z.1f}"


def _lacking(case: Case, arm: str, tried: StrengthTried, inversion: Inversion) -> tuple[str, ...]:
    """What a SUPPORTED needs of the rates and does not have."""
    analysis = case.experiment.analysis
    result = estimate(case, arm, tried.strength).result
    lacking = []
    if not result.passes:
        lacking.append(f"passing needs rho >= {analysis.thresholds.rho:g} with an interval above 0")
    elif inversion.interval is None or inversion.interval[0] <= 0:
        lacking.append("with the noise of both rankings counted, 0 is not excluded")
    for control in (analysis.isotropic_arm, analysis.baseline_arm):
        if control is None or control == arm:
            continue
        passes = estimate(case, control, tried.strength).result.passes
        if passes is not False:
            state = "passes too" if passes else "cannot be judged"
            lacking.append(f"arm {control} {state}")
    return tuple(lacking)


def _without(matrix: bool | None) -> tuple[str, ...]:
    if matrix:
        return ()
    if matrix is None:
        return ("whether it is its own direction that an adapter answers to was not measured",)
    return ("the adapters do not answer to their own direction more than to others",)
