"""The gates as far as they can be foreseen, and the rates of a run as a model to simulate with."""

from dataclasses import replace

import numpy as np

from steerproof.decide.analysis.answers import warnings
from steerproof.decide.analysis.case import Case, case_of, rates_of
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.kinds import steered_kind
from steerproof.decide.analysis.ranking import chosen, crossed, gate_strength
from steerproof.decide.analysis.rates import RateTable, of_seed
from steerproof.decide.analysis.reliability import reliability
from steerproof.decide.analysis.rig import Rig, push_sizes
from steerproof.decide.analysis.statistics import logistic, logit
from steerproof.decide.review.evidence import Evidence
from steerproof.decide.review.objections_design import CLIFF
from steerproof.decide.review.simulation import Margin, RateModel
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import CellKind

_NEAREST = 0.002
"""Shrunken rates are kept this far from 0 and 1, where a logit has no value."""


def foreseen_gates(experiment: Experiment, evidence: Evidence) -> tuple[Gate, ...]:
    """Every gate at the primary strength, with what is measured so far.

    Before completions exist, whether text stays whole is foreseen from the size of the push.
    """
    case, rig = _case(experiment, evidence), Rig(layers=evidence.calibration or {})
    arm, strength = experiment.analysis.arm, experiment.analysis.primary_strength
    gates = gate_strength(case, rig, arm, strength).gates
    sizes = push_sizes(case, rig, steered_kind(experiment, arm, strength))
    known = tuple(_with_cliff(gate, sizes, str(strength)) for gate in gates)
    return (*known, *warnings(case, rig, arm))


def _with_cliff(gate: Gate, sizes: np.ndarray | None, strength: str) -> Gate:
    if gate.name != "coherent" or gate.passed is not None or sizes is None:
        return gate
    if sizes.max() <= CLIFF:
        return gate
    return replace(
        gate,
        finding=f"foreseen to fail: {strength} pushes by up to {sizes.max():.2f}, and text broke "
        f"beyond {CLIFF}",
        remedy="the trained ratio will decide; measure it for every arm",
    )


def rates_so_far(experiment: Experiment, evidence: Evidence) -> RateModel | None:
    """The default model with this run's spreads; None until bridge and steered rates are there.

    A spread is that of the shrunken logits: alpha takes the noise out, so a ranking without
    reliability is simulated as flat.
    """
    case, rig = _case(experiment, evidence), Rig(layers=evidence.calibration or {})
    arm = experiment.analysis.arm
    strength = chosen(case, rig, arm).decides.strength
    bridge = _margin(case, case.bridge)
    steered = _margin(case, steered_kind(experiment, arm, strength))
    if bridge is None or steered is None:
        return None
    return replace(RateModel(), bridge=bridge, steered=steered)


def _margin(case: Case, kind: CellKind) -> Margin | None:
    table = crossed(case, kind)
    if isinstance(table, str):
        return None
    rates = rates_of(case, kind)
    kept = float(np.sqrt(reliability(table.values).signal))
    shrunk = np.clip(rates.mean() + kept * (rates - rates.mean()), _NEAREST, 1 - _NEAREST)
    logits = logit(shrunk)
    return Margin(median=float(logistic(np.median(logits))), spread=float(logits.std(ddof=1)))


def _case(experiment: Experiment, evidence: Evidence) -> Case:
    table = evidence.table or RateTable()
    return case_of(of_seed(table, experiment, experiment.seed), experiment)
