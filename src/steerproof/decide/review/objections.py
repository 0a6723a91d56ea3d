"""What a careful reviewer would object to, found by rule, each with its number and its remedy.

Objections of design need the file alone; power is simulated with the code that decides; the rest
wait for measurements and say nothing until they are there (`evidence.unknown` lists them).
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from statistics import fmean

import numpy as np

from steerproof.codec import plain
from steerproof.decide.analysis.calibration import CLIFF, LayerCalibration
from steerproof.decide.analysis.gate_numbers import DoseNumbers
from steerproof.decide.analysis.statistics import spearman
from steerproof.decide.review.evidence import Evidence, Objection
from steerproof.decide.review.foreseen import foreseen_gates, rates_so_far
from steerproof.decide.review.objections_design import (
    adapters_of_others,
    design_objections,
)
from steerproof.decide.review.power import (
    OperatingCharacteristics,
    operating_characteristics,
    trial_of,
)
from steerproof.decide.review.simulation import RateModel
from steerproof.spec.experiment import Experiment

_PLANNING_RHO = 0.8
"""A true correlation that an experiment should be able to detect."""
_WANTED_POWER = 0.8
"""Probability with which it should."""
_RELIABLE = 0.8
"""Smallest split-half cosine of a centroid that is not objected to."""
_UNEVEN = 0.3
"""Largest difference between personas in the mean cosine to their bystanders."""
_FLOOR, _CEILING = 0.05, 0.95
"""Bridge rates at or beyond these rank by chance."""
_MIN_DISTINCT = 5
"""Fewest distinct bridge rates ..."""
_MIN_BETWEEN = 4
"""... and fewest personas between floor and ceiling, for a ranking worth recovering."""
_TRUNCATED = 0.1
"""Largest share of cut completions that is not objected to."""


def objections(
    experiment: Experiment, *, evidence: Evidence | None = None, with_power: bool = True
) -> tuple[Objection, ...]:
    """Everything to object to, serious ones first.

    Args:
        experiment: As loaded.
        evidence: What is measured so far.
        with_power: Simulate the power; takes about a second.
    """
    known = evidence or Evidence()
    power = simulated_power(experiment, known) if with_power else None
    raised = [] if power is None else list(_power(experiment, power))
    raised += design_objections(experiment, known.training_seeds, power and _coverage(power))
    raised += adapters_of_others(experiment, known.prompts_known)
    raised += _measured(experiment, known)
    return tuple(sorted(raised, key=lambda objection: objection.severity != "serious"))


def simulated_power(
    experiment: Experiment, evidence: Evidence | None = None
) -> OperatingCharacteristics:
    """Operating characteristics in a hurry: few simulations at four true correlations.

    With rates as published, or with those of the run where they are measured.
    """
    model = rates_so_far(experiment, evidence or Evidence()) or RateModel()
    trial = trial_of(experiment, model=model, simulations=400, iterations=400, covered=0)
    return operating_characteristics(trial, (0.0, 0.6, _PLANNING_RHO, 0.95), power=_WANTED_POWER)


def _coverage(power: OperatingCharacteristics) -> float | None:
    at = {point.rho: point.registered_general.share for point in power.points}
    return at[_PLANNING_RHO]


def _power(
    experiment: Experiment, characteristics: OperatingCharacteristics
) -> Iterator[Objection]:
    supported = {point.rho: point.supported for point in characteristics.points}
    if supported[_PLANNING_RHO] >= _WANTED_POWER:
        return
    count = len(experiment.headline)
    smallest = characteristics.minimum_detectable_rho
    reach = "none up to 0.95" if smallest is None else f"{smallest:.2f}"
    yield Objection(
        code="low_power",
        severity="serious",
        finding=f"with {count} personas, a true correlation of {_PLANNING_RHO} is SUPPORTED in "
        f"{supported[_PLANNING_RHO]:.0%} of simulated runs; smallest correlation that is found in "
        f"{_WANTED_POWER:.0%}: {reach}. A null result would be no evidence of absence",
        remedy="add personas (they help most), then questions; see `steerproof power`",
        numbers={
            "personas": count,
            "power_at": {f"{rho:g}": share for rho, share in supported.items()},
            "minimum_detectable_rho": smallest,
            "false_supported": supported[0.0],
            "simulations": characteristics.trial.simulations,
        },
    )


def _measured(experiment: Experiment, evidence: Evidence) -> Iterator[Objection]:
    layer = evidence.layer(experiment.layers.primary)
    if layer is not None:
        yield from _pushes(experiment, layer)
        yield from _neutral(experiment, layer)
        yield from _unreliable(experiment, layer)
        yield from _bystanders(experiment, layer, evidence)
    known = tuple(_gates(experiment, evidence))
    yield from known
    judged = any(objection.code == "unattainable" for objection in known)
    if evidence.bridge is not None and not judged:
        yield from _bridge(experiment, evidence.bridge)
    if evidence.truncated is not None and evidence.truncated > _TRUNCATED:
        yield Objection(
            code="truncation",
            severity="serious",
            finding=f"{evidence.truncated:.0%} of completions reach "
            f"{experiment.generation.max_new_tokens} tokens and are cut; the marker stands at the "
            "end",
            remedy="raise generation.max_new_tokens",
            numbers={"truncated": evidence.truncated, "limit": _TRUNCATED},
        )


def _pushes(experiment: Experiment, layer: LayerCalibration) -> Iterator[Objection]:
    asked = (experiment.analysis.primary_strength, experiment.analysis.co_primary_strength)
    for strength in dict.fromkeys(one for one in asked if one is not None):
        every = {name: layer.ratio(name, strength) for name in experiment.headline}
        ratios = {name: ratio for name, ratio in every.items() if ratio is not None}
        beyond = {name: ratio for name, ratio in ratios.items() if ratio > CLIFF}
        if beyond:
            named = ", ".join(f"{name} {ratio:.2f}" for name, ratio in beyond.items())
            yield Objection(
                code="beyond_cliff",
                severity="serious",
                finding=f"{strength} pushes {len(beyond)} of {len(ratios)} personas beyond a ratio "
                f"of {CLIFF}, where text broke in the published run: {named}",
                remedy="test at a ratio (`ratio=+0.2`), which is the same push for every persona",
                numbers={"strength": str(strength), "ratios": beyond, "limit": CLIFF},
            )


def _neutral(experiment: Experiment, layer: LayerCalibration) -> Iterator[Objection]:
    limit = experiment.gates.neutral_cosine
    cosines = {name: layer.personas[name].neutral_cosine for name in experiment.headline}
    near = {name: cosine for name, cosine in cosines.items() if cosine and abs(cosine) > limit}
    if near:
        named = ", ".join(f"{name} {cosine:+z.2f}" for name, cosine in near.items())
        yield Objection(
            code="neutral_too_close",
            severity="serious",
            finding=f"the neutral prompt points along a persona's direction (|cos| > {limit:g}): "
            f"{named}; its neutral cells are not neutral",
            remedy="choose another neutral_prompt",
            numbers={"cosines": near, "limit": limit},
        )


def _unreliable(experiment: Experiment, layer: LayerCalibration) -> Iterator[Objection]:
    halves = {name: layer.personas[name].split_half for name in experiment.headline}
    low = {name: half for name, half in halves.items() if half is None or half < _RELIABLE}
    if low:
        named = ", ".join(
            f"{name} {'no direction at all' if half is None else format(half, '.2f')}"
            for name, half in low.items()
        )
        yield Objection(
            code="unreliable_centroid",
            severity="serious",
            finding=f"two halves of the questions give different centroids (cosine below "
            f"{_RELIABLE}): {named}",
            remedy="extract from more questions (questions.directions)",
            numbers={"split_half": low, "limit": _RELIABLE},
        )


def _bystanders(
    experiment: Experiment, layer: LayerCalibration, evidence: Evidence
) -> Iterator[Objection]:
    """Negatives near the source are harder to tell apart: that differs between personas."""
    drawn = evidence.bystanders
    if drawn is None:
        return
    closeness = {
        name: fmean(known)
        for name in experiment.headline
        for cosines in [[layer.cosines[name][other] for other in drawn.get(name, ())]]
        if (known := [cosine for cosine in cosines if cosine is not None])
    }
    spread = max(closeness.values()) - min(closeness.values()) if closeness else 0.0
    if spread <= _UNEVEN:
        return
    rho = None
    if evidence.bridge is not None:
        names = [name for name in closeness if name in evidence.bridge]
        pair = [[closeness[n] for n in names], [evidence.bridge[n] for n in names]]
        value = float(spearman(np.array(pair[0]), np.array(pair[1])))
        rho = value if np.isfinite(value) else None
    nearest = max(closeness, key=lambda name: closeness[name])
    farthest = min(closeness, key=lambda name: closeness[name])
    yield Objection(
        code="uneven_bystanders",
        severity="serious" if rho is not None and abs(rho) >= 0.5 else "note",
        finding=f"mean cosine to the bystanders runs from {closeness[farthest]:+z.2f} ({farthest}) "
        f"to {closeness[nearest]:+z.2f} ({nearest}): some adapters learn a harder distinction"
        + ("" if rho is None else f"; its rank correlation with the bridge is {rho:+z.2f}"),
        remedy="more bystanders per persona even this out (dataset.bystanders)",
        numbers={"closeness": closeness, "spread": spread, "limit": _UNEVEN, "rho_bridge": rho},
    )


def _gates(experiment: Experiment, evidence: Evidence) -> Iterator[Objection]:
    """Gates that fail: what the ranking cannot be answered for, or what decides it instead."""
    codes = {"installed": "not_installed", "attainable": "unattainable"}
    for gate in foreseen_gates(experiment, evidence):
        code, severity = codes.get(gate.name), "serious"
        if isinstance(gate.numbers, DoseNumbers):
            ordered = gate.numbers.dose_ranked
            code, severity = ("dose_ranked", "serious") if ordered else ("unequal_dose", "note")
        if gate.passed is not False or code is None:
            continue
        yield Objection(
            code=code,
            severity="serious" if severity == "serious" else "note",
            finding=f"{gate.finding} (allowed: {gate.limit})",
            remedy=gate.remedy,
            numbers=plain(gate.numbers),
        )


def _bridge(experiment: Experiment, bridge: Mapping[str, float]) -> Iterator[Objection]:
    rates = {name: bridge[name] for name in experiment.headline if name in bridge}
    between = [name for name, rate in rates.items() if _FLOOR < rate < _CEILING]
    distinct = len({round(rate, 9) for rate in rates.values()})
    tied = sum(1 for a, b in combinations(rates.values(), 2) if a == b)
    if len(between) >= _MIN_BETWEEN and distinct >= _MIN_DISTINCT:
        return
    yield Objection(
        code="flat_bridge",
        severity="serious",
        finding=f"the bridge has {distinct} distinct rates ({tied} tied pairs) and "
        f"{len(between)} of {len(rates)} personas between {_FLOOR} and {_CEILING}: there is hardly "
        "a ranking to recover",
        remedy="more samples per question, or a training recipe with graded rates",
        numbers={"distinct": distinct, "tied_pairs": tied, "between": len(between)},
    )
