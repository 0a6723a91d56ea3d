"""The three answers: as registered, ranking, direction and prompt; over training seeds."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from steerproof.decide.analysis import gates
from steerproof.decide.analysis.analyze import analyze
from steerproof.decide.analysis.answer_records import (
    Reads,
    SeedAnswer,
    SeedResult,
    ThreeAnswers,
)
from steerproof.decide.analysis.answer_words import reading, three_lines
from steerproof.decide.analysis.beside import beside
from steerproof.decide.analysis.calibration import reference_cosines
from steerproof.decide.analysis.case import Case, case_of, rates_of
from steerproof.decide.analysis.confounds import confounds
from steerproof.decide.analysis.direction_answer import answer_direction
from steerproof.decide.analysis.estimates import estimate
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.graded import graded_rankings
from steerproof.decide.analysis.kills_v2 import revised_kills
from steerproof.decide.analysis.mechanism import other_pushes
from steerproof.decide.analysis.ranking import answer_ranking, chosen, deciding
from steerproof.decide.analysis.rates import RateTable, of_seed
from steerproof.decide.analysis.records import Analysis
from steerproof.decide.analysis.rig import Rig
from steerproof.decide.analysis.seeds import one_training, seed_agreement
from steerproof.spec.experiment import Experiment


def answer(
    table: RateTable, experiment: Experiment, registered: Analysis, rig: Rig | None = None
) -> ThreeAnswers:
    """Answer the question of the experiment's title, beside what the registered rule says.

    Args:
        table: Rates, checked against the experiment.
        experiment: Arms, personas and thresholds.
        registered: The registered analysis of the same table; its arm is the one that is tested.
        rig: What is known besides the rates; none is a bare table.
    """
    known, arm = rig or Rig(), registered.arm
    seeds = tuple(dict.fromkeys((experiment.seed, *experiment.further_seeds)))
    cases = {seed: case_of(of_seed(table, experiment, seed), experiment) for seed in seeds}
    case, own = cases[experiment.seed], known.of_seed(experiment, experiment.seed)
    tried = deciding(case, own, arm)
    direction = answer_direction(case, own, arm, tried.decides.strength)
    kills = revised_kills(case, own, arm, tried.decides.strength)
    looked = tuple(dict.fromkeys((tried.primary.strength, tried.decides.strength)))
    answers = ThreeAnswers(
        registered=registered.verdict,
        ranking=answer_ranking(case, arm, tried, matrix=direction.supports, kills=kills),
        direction=direction,
        seeds=_seeds(cases, known, arm),
        gates=warnings(case, own, arm),
        kills=kills,
        graded=graded_rankings(case, own, arm, looked),
        confounds=confounds(case, own, arm, looked),
        pushes=other_pushes(case),
    )
    return replace(
        answers,
        reading=reading(answers, registered, experiment),
        lines=three_lines(answers, registered, experiment),
    )


def conclude(
    table: RateTable,
    experiment: Experiment,
    *,
    rig: Rig | None = None,
    arm: str | None = None,
) -> tuple[Analysis, ThreeAnswers]:
    """The registered analysis and the three answers; both say the same of the question.

    Args:
        table: Rates, checked against the experiment.
        experiment: Registered numbers, arms, personas and thresholds.
        rig: What is known besides the rates; none is a bare table.
        arm: Arm that is tested; none takes the experiment's.

    Returns:
        The registered analysis, its reading replaced by that of the answers, and the answers.
    """
    known = rig or Rig()
    geometry = reference_cosines(known.layers) if known.layers else None
    registered = analyze(table, experiment, geometry=geometry, arm=arm)
    answers = answer(table, experiment, registered, known)
    return replace(registered, reading=answers.reading), answers


def _seeds(cases: Mapping[int, Case], rig: Rig, arm: str) -> SeedAnswer:
    """What each training seed shows by itself, and whether they agree on the bridge."""
    first = next(iter(cases.values()))
    bridges = np.array([rates_of(case, case.bridge) for case in cases.values()])
    complete = ~np.isnan(bridges).any(axis=1)
    agreement = one_training(int(complete.sum()))
    if complete.sum() > 1:
        agreement = seed_agreement(bridges[complete].T, first.experiment.answers)
    several = cases.items() if len(cases) > 1 else ()
    results = beside(lambda one: _seed(one[1], rig, arm, one[0]), several)
    return replace(agreement, results=tuple(results))


def _seed(case: Case, rig: Rig, arm: str, seed: int) -> SeedResult:
    own = rig.of_seed(case.experiment, seed)
    strength = chosen(case, own, arm).decides.strength
    direction = answer_direction(case, own, arm, strength)
    tested = direction.tested
    return SeedResult(
        seed=seed,
        rho=estimate(case, arm, case.experiment.analysis.primary_strength).result.rho,
        s=tested and tested.s and tested.s.value,
        p=tested and tested.p,
        reads=direction.reads if tested else Reads.NOT_MEASURED,
    )


def warnings(case: Case, rig: Rig, arm: str) -> tuple[Gate, ...]:
    """The gates on the directions themselves, at the tested arm's layer."""
    experiment, limits = case.experiment, case.experiment.answers
    layer = rig.layers.get(experiment.layer(experiment.arm(arm).layer))
    cosines, control = {}, None
    kind = "isotropic"
    if experiment.analysis.isotropic_arm is not None:
        kind = experiment.arm(experiment.analysis.isotropic_arm).steered_direction
    if layer is not None:
        measured = {name: layer.personas[name].neutral_cosine for name in case.personas}
        cosines = {name: value for name, value in measured.items() if value is not None}
        stored = layer.controls.get(kind)
        owns = {} if stored is None else {name: stored.own(name) for name in case.personas}
        control = {name: value for name, value in owns.items() if value is not None}
    return (
        gates.neutral(cosines, experiment.gates.neutral_cosine),
        gates.control(control, limits, kind),
    )
