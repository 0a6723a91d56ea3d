"""The registered analysis of a rate table: `analyze`."""

from collections.abc import Mapping

import numpy as np

from steerproof.decide.analysis.arms import JudgedArm, judge_arm
from steerproof.decide.analysis.case import Case, case_of, rates_of
from steerproof.decide.analysis.controls import (
    compare_both_ways,
    control_arm,
    correlate_geometry,
    sign_check,
)
from steerproof.decide.analysis.estimates import estimate
from steerproof.decide.analysis.flags import Flag
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.analysis.readings import reading, reason
from steerproof.decide.analysis.records import (
    Analysis,
    ArmResult,
    ControlArm,
    ControlResults,
    StrengthResult,
)
from steerproof.decide.analysis.rule import ControlFlags, decide, outcomes, verdict_of
from steerproof.decide.analysis.statistics import defined
from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import samples


def analyze(
    table: RateTable,
    experiment: Experiment,
    *,
    geometry: Mapping[str, Mapping[str, float]] | None = None,
    arm: str | None = None,
) -> Analysis:
    """The registered analysis: every arm of the table, the controls, and one verdict.

    Args:
        table: Rates, checked against the experiment.
        experiment: The registered numbers, arms and personas.
        geometry: Layer to persona to cosine with the reference persona's direction.
        arm: Arm that the verdict is about; none takes the experiment's.

    Raises:
        ExperimentError: The arm is not one of the experiment's.
    """
    tested = arm or experiment.analysis.arm
    names = [a.name for a in experiment.adapter_arms]
    if tested not in names:
        raise ExperimentError(f"arm {tested!r} is not one of {', '.join(names)}")
    case = case_of(table, experiment)
    wanted = dict.fromkeys([tested, *(name for name in names if name in table.arms)])
    arms = {name: judge_arm(case, name) for name in wanted}
    return _conclude(case, arms[tested], arms, geometry)


def _conclude(
    case: Case,
    tested: JudgedArm,
    arms: Mapping[str, JudgedArm],
    cosines: Mapping[str, Mapping[str, float]] | None,
) -> Analysis:
    """Controls, verdict and reading, once every arm is judged by itself."""
    experiment, analysis = case.experiment, case.experiment.analysis
    flags = ControlFlags(
        isotropic_passes=_passes(analysis.isotropic_arm, tested, arms),
        baseline_passes=_passes(analysis.baseline_arm, tested, arms),
    )
    outcome = outcomes()[int(decide(tested.primary.seen, tested.kills, flags, analysis))]
    results = {name: judged.result for name, judged in arms.items()}
    bridge = rates_of(case, case.bridge)
    return Analysis(
        experiment=experiment.name,
        arm=tested.name,
        personas=case.personas,
        bridge={p: defined(r) for p, r in zip(case.personas, bridge, strict=True)},
        confidence=analysis.confidence,
        iterations=analysis.iterations,
        seed=experiment.seed,
        arms=results,
        controls=_controls(case, tested, arms),
        comparisons=compare_both_ways(case, tested.name),
        geometry=None if cosines is None else correlate_geometry(case, cosines),
        outcome=outcome,
        verdict=verdict_of(outcome),
        reason=reason(outcome, experiment, results, tested.name),
        reading=reading(outcome, experiment, tested.name),
        magnitude_bound=_magnitude_bound(tested.result),
        notes=_notes(case),
    )


def _passes(control: str | None, tested: JudgedArm, arms: Mapping[str, JudgedArm]) -> Flag:
    """Whether a control passes: 0 where there is none to demand, NaN where it was not measured."""
    if control is None or control == tested.name:
        return np.zeros(())
    passes = arms[control].result.passes if control in arms else None
    return np.asarray(np.nan if passes is None else float(passes))


def _controls(case: Case, tested: JudgedArm, arms: Mapping[str, JudgedArm]) -> ControlResults:
    """The control arms that the experiment names, and the sign check."""
    analysis = case.experiment.analysis

    def control(name: str | None, *, must_fail: bool) -> ControlArm | None:
        if name is None or name == tested.name:
            return None
        ours, theirs = tested.result.primary, _primary(case, name, arms)
        return control_arm(case, (tested.name, ours), (name, theirs), must_fail=must_fail)

    return ControlResults(
        baseline=control(analysis.baseline_arm, must_fail=True),
        isotropic=control(analysis.isotropic_arm, must_fail=True),
        contrast=control(analysis.contrast_arm, must_fail=False),
        sign_check=sign_check(case, tested.name),
    )


def _primary(case: Case, name: str, arms: Mapping[str, JudgedArm]) -> StrengthResult:
    """A control at the primary strength, also one that the table has no cells of."""
    if name in arms:
        return arms[name].result.primary
    return estimate(case, name, case.experiment.analysis.primary_strength).result


def _magnitude_bound(arm: ArmResult) -> bool | None:
    """Whether the arm passes at exactly one of the two registered strengths."""
    if arm.co_primary is None or arm.passes is None or arm.co_primary.passes is None:
        return None
    return arm.passes != arm.co_primary.passes


def _notes(case: Case) -> tuple[str, ...]:
    """Cells with fewer or more completions than the experiment asks for."""
    experiment = case.experiment
    questions, usual = len(experiment.questions.evaluation), experiment.generation.samples
    asked, counts = questions * usual, samples(experiment)
    odd = [
        (cell, sum(counted.total))
        for cell, counted in case.table.cells.items()
        if sum(counted.total) != questions * counts.get(cell, usual)
    ]
    if not odd:
        return ()
    cell, total = odd[0]
    return (
        f"{len(odd)} of {len(case.table.cells)} cells do not have the {asked} completions that "
        f"the experiment asks for (first: {cell.name} has {total})",
    )
