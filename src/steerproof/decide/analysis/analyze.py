"""The registered analysis of a rate table: `analyze`."""

from collections.abc import Mapping

import numpy as np

from steerproof.decide.analysis.controls import (
    comparisons,
    control_arm,
    correlate_geometry,
    sign_check,
)
from steerproof.decide.analysis.estimates import Estimate, estimate
from steerproof.decide.analysis.kills import ArmRates, Kill, kills, mean_rate
from steerproof.decide.analysis.rates import CellKind, RateTable
from steerproof.decide.analysis.readings import reading, reason
from steerproof.decide.analysis.records import (
    Analysis,
    ArmResult,
    ControlArm,
    ControlResults,
    KillResult,
    number,
    truth,
)
from steerproof.decide.analysis.resampling import Resampling
from steerproof.decide.analysis.rule import OUTCOMES, Controls, decide, verdict_of
from steerproof.decide.analysis.statistics import is_constant
from steerproof.decide.analysis.tested import (
    Study,
    arm_direction,
    arm_layer,
    isotropic_kind,
    missing_personas,
    rates_of,
    steered_kind,
    sweep_kinds,
    totals_of,
    zero,
)
from steerproof.errors import ExperimentError
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import samples


def analyze(
    table: RateTable,
    experiment: Experiment,
    *,
    geometry: Mapping[str, Mapping[str, float]] | None = None,
    arm: str | None = None,
    workers: int = 1,
) -> Analysis:
    """The registered analysis: every arm of the table, the controls, and one verdict.

    Args:
        table: Rates, checked against the experiment.
        experiment: The registered numbers, arms and personas.
        geometry: Layer to persona to cosine with the reference persona's direction.
        arm: Arm that the verdict is about; none takes the experiment's.
        workers: Threads for resampling; changes nothing but time.

    Raises:
        ExperimentError: the arm is not one of the experiment's.
    """
    tested = arm or experiment.analysis.arm
    names = [a.name for a in experiment.adapter_arms]
    if tested not in names:
        raise ExperimentError(f"arm {tested!r} is not one of {', '.join(names)}")
    plan = Resampling(
        seed=experiment.seed, iterations=experiment.analysis.iterations, workers=workers
    )
    study = Study(table=table, experiment=experiment, plan=plan)
    wanted = dict.fromkeys([tested, *(n for n in names if n in table.arms)])
    primaries = {n: estimate(study, n, experiment.analysis.primary_strength) for n in wanted}
    found = {n: arm_kills(study, n) for n in wanted}
    arms = {n: arm_result(study, n, primaries[n], found[n]) for n in wanted}
    return conclude(study, tested, primaries, found, arms, geometry)


def conclude(
    study: Study,
    tested: str,
    primaries: Mapping[str, Estimate],
    found: Mapping[str, Mapping[str, Kill]],
    arms: Mapping[str, ArmResult],
    cosines: Mapping[str, Mapping[str, float]] | None,
) -> Analysis:
    """Controls, verdict and reading, once every arm is estimated."""
    experiment, analysis = study.experiment, study.experiment.analysis
    controls = find_controls(study, tested, primaries)
    code = decide(
        primaries[tested].evidence,
        dict(found[tested]),
        Controls(
            isotropic_passes=control_flag(analysis.isotropic_arm, tested, primaries),
            baseline_passes=control_flag(analysis.baseline_arm, tested, primaries),
        ),
        study.limits,
    )
    outcome = OUTCOMES[int(code)]
    bridge = rates_of(study, study.bridge)
    return Analysis(
        experiment=experiment.name,
        arm=tested,
        personas=study.personas,
        bridge={p: number(r) for p, r in zip(study.personas, bridge, strict=True)},
        confidence=analysis.confidence,
        iterations=analysis.iterations,
        seed=experiment.seed,
        arms=arms,
        controls=controls,
        comparisons=comparisons(study, tested),
        geometry=None if cosines is None else correlate_geometry(study, cosines),
        outcome=outcome,
        verdict=verdict_of(outcome),
        reason=reason(outcome, experiment, arms, tested),
        reading=reading(outcome, experiment, tested),
        magnitude_bound=magnitude_bound(arms[tested]),
        notes=notes(study),
    )


def control_flag(control: str | None, tested: str, primaries: Mapping[str, Estimate]) -> np.ndarray:
    """Whether a control passes: 0 where there is none to demand, NaN where it was not measured."""
    if control is None or control == tested:
        return zero()
    passes = primaries[control].result.passes if control in primaries else None
    return np.asarray(np.nan if passes is None else float(passes))


def find_controls(study: Study, tested: str, primaries: Mapping[str, Estimate]) -> ControlResults:
    """The control arms that the experiment names, and the sign check."""
    analysis = study.experiment.analysis
    asked = {
        "baseline": (analysis.baseline_arm, True),
        "isotropic": (analysis.isotropic_arm, True),
        "contrast": (analysis.contrast_arm, False),
    }
    arms: dict[str, ControlArm | None] = {}
    for role, (name, must_fail) in asked.items():
        if name is None or name == tested:
            arms[role] = None
            continue
        both = dict(primaries)
        if name not in both:
            both[name] = estimate(study, name, analysis.primary_strength)
        arms[role] = control_arm(study, tested, name, both, must_fail=must_fail)
    return ControlResults(**arms, sign_check=sign_check(study, tested))


def arm_rates(study: Study, arm: str) -> ArmRates:
    """Every rate that an arm's kills look at."""
    steered = steered_kind(study, arm, study.experiment.analysis.primary_strength)
    isotropic = isotropic_kind(study, arm, steered.strength)
    sweep = [rates_of(study, kind) for kind in sweep_kinds(study, arm)]
    return ArmRates(
        bridge=rates_of(study, study.bridge),
        steered=rates_of(study, steered),
        unsteered=rates_of(study, CellKind(arm=arm, prompt="neutral")),
        prompted=rates_of(study, CellKind(arm=arm, prompt="persona")),
        prompted_steered=rates_of(study, with_persona_prompt(steered)),
        sweep=np.array(sweep).reshape(len(sweep), len(study.personas)),
        isotropic=rates_of(study, isotropic),
        steered_total=totals_of(study, steered),
        isotropic_total=totals_of(study, isotropic),
    )


def with_persona_prompt(kind: CellKind) -> CellKind:
    """The same push with the persona prompt on."""
    return CellKind(
        arm=kind.arm,
        prompt="persona",
        direction=kind.direction,
        layer=kind.layer,
        strength=kind.strength,
    )


def arm_kills(study: Study, arm: str) -> dict[str, Kill]:
    """The five criteria of one arm."""
    analysis = study.experiment.analysis
    return kills(arm_rates(study, arm), analysis.thresholds, analysis.confidence)


def arm_result(study: Study, arm: str, primary: Estimate, found: Mapping[str, Kill]) -> ArmResult:
    """One arm at both strengths, with its kills and their reasons."""
    strength = study.experiment.analysis.co_primary_strength
    other = None if strength is None else estimate(study, arm, strength).result
    rates = arm_rates(study, arm)
    means = {"unsteered": rates.unsteered, "prompted": rates.prompted, "primary": rates.steered}
    if strength is not None:
        means["co_primary"] = rates_of(study, steered_kind(study, arm, strength))
    return ArmResult(
        direction=arm_direction(study.experiment, arm),
        layer=arm_layer(study.experiment, arm),
        mean_rates={name: number(mean_rate(values)) for name, values in means.items()},
        primary=primary.result,
        co_primary=other,
        kills={name: kill_result(study, arm, name, kill) for name, kill in found.items()},
        passes=primary.result.passes,
    )


def kill_result(study: Study, arm: str, name: str, kill: Kill) -> KillResult:
    """A criterion with None for NaN, and why."""
    values = {key: number(value) for key, value in kill.numbers.items()}
    counts = {k: int(v) for k, v in values.items() if k.startswith("n") and v is not None}
    undefined = np.isnan(kill.fired) or None in values.values()
    return KillResult(
        fired=truth(kill.fired),
        reason=kill_reason(study, arm, name) if undefined else None,
        numbers={**values, **counts},
    )


def kill_reason(study: Study, arm: str, name: str) -> str:
    """Which cells of a criterion are missing or constant."""
    steered = steered_kind(study, arm, study.experiment.analysis.primary_strength)
    unsteered = CellKind(arm=arm, prompt="neutral")
    prompted = (CellKind(arm=arm, prompt="persona"), with_persona_prompt(steered))
    isotropic = isotropic_kind(study, arm, steered.strength)
    if name == "direction_not_specific" and isotropic is None:
        return "no isotropic cells of this arm, and no isotropic arm to compare with"
    kinds: dict[str, tuple[CellKind | None, ...]] = {
        "uniform_zero": sweep_kinds(study, arm) or (steered,),
        "baseline_rate_driven": (unsteered, steered, study.bridge),
        "sign_inverted": prompted,
        "no_correlation": (steered, study.bridge),
        "direction_not_specific": (steered, isotropic, study.bridge),
    }
    parts = [why_undefined(study, kind) for kind in kinds[name] if kind is not None]
    return "; ".join(part for part in parts if part) or "undefined"


def why_undefined(study: Study, kind: CellKind) -> str | None:
    """What is wrong with a kind of cell: missing personas, or a constant rate."""
    missing = missing_personas(study, kind)
    if len(missing) == len(study.personas):
        return f"no cells of {kind.name}"
    if missing:
        return f"no rate of {kind.name} for {', '.join(missing)}"
    values = rates_of(study, kind)
    return f"{kind.name} is {values[0]:.3g} for every persona" if is_constant(values) else None


def magnitude_bound(arm: ArmResult) -> bool | None:
    """Whether the arm passes at exactly one of the two registered strengths."""
    if arm.co_primary is None or arm.passes is None or arm.co_primary.passes is None:
        return None
    return arm.passes != arm.co_primary.passes


def notes(study: Study) -> tuple[str, ...]:
    """Cells with fewer or more completions than the experiment asks for."""
    experiment = study.experiment
    questions, usual = len(experiment.questions.evaluation), experiment.generation.samples
    asked, counts = questions * usual, samples(experiment)
    odd = [
        (cell, sum(found.total))
        for cell, found in study.table.cells.items()
        if sum(found.total) != questions * counts.get(cell, usual)
    ]
    if not odd:
        return ()
    cell, total = odd[0]
    return (
        f"{len(odd)} of {len(study.table.cells)} cells do not have the {asked} completions that "
        f"the experiment asks for (first: {cell.name} has {total})",
    )
