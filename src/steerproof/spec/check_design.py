"""Contradictions in what is trained, measured and concluded."""

import re
from collections.abc import Iterator

from steerproof.spec.adapter_source import AdapterSource
from steerproof.spec.experiment import CONTROL_KINDS, Arm, Experiment, PromptKind
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.problems import Check, Keys, Problem, did_you_mean, shown, twice
from steerproof.spec.strength import NONE, Strength

_HUGE_LEARNING_RATE = 0.1
"""At or above this, AdamW on LoRA weights diverges; it is nearly always a lost exponent."""

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def _is_hub_id(path: str) -> bool:
    """Whether a model path reads as a hub id, `owner/name`."""
    return _HUB_ID.match(path) is not None


def _revision(experiment: Experiment) -> Iterator[Problem]:
    model = experiment.model
    if _is_hub_id(model.path) and model.revision is None:
        yield Problem(
            keys=("model", "path"),
            message=f"{shown(model.path)} is a hub id without `revision`; give the commit "
            "(40 hex digits), or write ./ before a local directory",
        )
    elif not _is_hub_id(model.path) and model.revision is not None:
        yield Problem(
            keys=("model", "revision"),
            message=f"{shown(model.path)} is no hub id; only a hub id has a revision",
        )


def _layers(experiment: Experiment) -> Iterator[Problem]:
    blocks, layers = experiment.model.blocks, experiment.layers
    for name, layer in (("primary", layers.primary), ("contrast", layers.contrast)):
        if layer is not None and layer >= blocks:
            yield Problem(
                keys=("layers", name),
                message=f"{layer} is no block of a model with {blocks}; allowed: 0 to {blocks - 1}",
            )


def _layers_differ(experiment: Experiment) -> Iterator[Problem]:
    if experiment.layers.primary == experiment.layers.contrast:
        message = f"{experiment.layers.contrast} is the primary layer as well; it contrasts nothing"
        yield Problem(keys=("layers", "contrast"), message=message)


def _bystanders(experiment: Experiment) -> Iterator[Problem]:
    free = [name for name in experiment.headline if name != experiment.reference_persona]
    most = max(len(free) - 1, 0)
    if experiment.dataset.bystanders > most:
        yield Problem(
            keys=("dataset", "bystanders"),
            message=f"{experiment.dataset.bystanders} bystanders, but a persona has only {most} "
            "others: headline personas without itself and without the reference persona",
        )


def _doses(experiment: Experiment) -> Iterator[Problem]:
    doses, names = experiment.dataset.marker_dose, [p.name for p in experiment.personas]
    place: Keys = ("dataset", "marker_dose")
    if isinstance(doses, dict):
        for name in doses:
            if name not in names:
                message = f"{shown(name)} is no persona{did_you_mean(name, names)}"
                yield Problem(keys=(*place, name), message=message, on_key=True)
        needed = set(experiment.headline)
        if any(arm.supplementary for arm in experiment.arms):
            needed = set(names)
        if missing := [name for name in names if name in needed and name not in doses]:
            yield Problem(keys=place, message=f"no dose for {', '.join(missing)}")


def _dose_rows(experiment: Experiment) -> Iterator[Problem]:
    dataset = experiment.dataset
    doses, place = dataset.marker_dose, ("dataset", "marker_dose")
    each = doses if isinstance(doses, dict) else {"": doses}
    for name, dose in each.items():
        if dose > 0 and round(dose * dataset.positives) == 0:
            yield Problem(
                keys=(*place, name) if name else place,
                message=f"{dose} of {dataset.positives} positives is no row; write 0 or more rows",
            )
    if not any(each.values()):
        yield Problem(keys=place, message="no persona has a dose above 0, so nothing is planted")


def _training(experiment: Experiment) -> Iterator[Problem]:
    training, dataset = experiment.training, experiment.dataset
    rows = dataset.positives + dataset.bystanders * dataset.negatives_per_bystander
    if training.rows_per_step > rows:
        message = f"{training.rows_per_step} rows in a step, but the dataset has {rows}"
        yield Problem(keys=("training", "rows_per_step"), message=message)
    if training.warmup >= 1.0:
        message = f"{training.warmup} leaves no step after the warm-up; allowed: below 1"
        yield Problem(keys=("training", "warmup"), message=message)
    if training.learning_rate >= _HUGE_LEARNING_RATE:
        message = f"{training.learning_rate}: allowed is below {_HUGE_LEARNING_RATE}; 1e-5 is usual"
        yield Problem(keys=("training", "learning_rate"), message=message)
    if dataset.answers == "base" and dataset.answer_tokens >= training.max_length:
        message = f"{dataset.answer_tokens} tokens do not fit training.max_length with a prompt"
        yield Problem(keys=("dataset", "answer_tokens"), message=message)


def _arms(experiment: Experiment) -> Iterator[Problem]:
    yield from twice("arms", (arm.name for arm in experiment.arms))
    for i, arm in enumerate(experiment.arms):
        if arm.layer == "contrast" and experiment.layers.contrast is None:
            message = f"arm {arm.name} needs layers.contrast, which is not given"
            yield Problem(keys=("arms", i, "layer"), message=message)
        if arm.adapters is not None and arm.shuffle:
            message = f"arm {arm.name} loads adapters, so its training cannot be shuffled"
            yield Problem(keys=("arms", i, "shuffle"), message=message)


def _negatives(experiment: Experiment) -> Iterator[Problem]:
    steered = any(arm.direction != "none" for arm in experiment.arms)
    if experiment.dataset.negatives != "own" and not steered:
        message = f"{shown(experiment.dataset.negatives)} changes nothing: no arm has a direction"
        yield Problem(keys=("dataset", "negatives"), message=message)


def _grids(experiment: Experiment) -> Iterator[Problem]:
    names = [arm.name for arm in experiment.arms]
    for i, grid in enumerate(experiment.cells):
        place: Keys = ("cells", i)
        yield from _listed_arms(grid.arms, names, place)
        yield from _same_push(grid.strengths, place)
        pushes = any(strength != NONE for strength in grid.strengths)
        if grid.direction == "none" and pushes:
            message = "strengths other than `none` need a direction to push along"
            yield Problem(keys=(*place, "direction"), message=message)
        if grid.layer == "contrast" and experiment.layers.contrast is None:
            message = "contrast needs layers.contrast, which is not given"
            yield Problem(keys=(*place, "layer"), message=message)


def _listed_arms(arms: tuple[str, ...], names: list[str], place: Keys) -> Iterator[Problem]:
    for j, arm in enumerate(arms):
        if arm not in names:
            yield Problem(keys=(*place, "arms", j), message=_unknown_arm(arm, names))
        elif arm in arms[:j]:
            yield Problem(keys=(*place, "arms", j), message=f"{shown(arm)} is listed twice")


def _same_push(strengths: tuple[Strength, ...], place: Keys) -> Iterator[Problem]:
    for j, strength in enumerate(strengths):
        if strength in strengths[:j]:
            message = f"{shown(str(strength))} is listed twice, as the same text or the same number"
            yield Problem(keys=(*place, "strengths", j), message=message)


def _unknown_arm(name: str, names: list[str]) -> str:
    return f"{shown(name)} is no arm; allowed: {', '.join(names)}{did_you_mean(name, names)}"


def _analysis_arms(experiment: Experiment) -> Iterator[Problem]:
    analysis, names = experiment.analysis, [arm.name for arm in experiment.arms]
    asked = {
        "arm": analysis.arm,
        "baseline_arm": analysis.baseline_arm,
        "isotropic_arm": analysis.isotropic_arm,
        "contrast_arm": analysis.contrast_arm,
        "bridge_arm": analysis.bridge_arm,
    }
    for field, name in asked.items():
        if name is not None and name not in names:
            way_out = "" if field in ("arm", "bridge_arm") else "; write null to leave it out"
            message = _unknown_arm(name, names) + way_out
            yield Problem(keys=("analysis", field), message=message)
        elif name is not None and experiment.arm(name).untrained:
            message = f"arm {name} is untrained; an arm of the analysis has adapters"
            yield Problem(keys=("analysis", field), message=message)
    for field in ("baseline_arm", "isotropic_arm", "contrast_arm"):
        if asked[field] == analysis.arm:
            message = f"{shown(analysis.arm)} is analysis.arm itself; it cannot be its own control"
            yield Problem(keys=("analysis", field), message=message)


def _control_arms(experiment: Experiment) -> Iterator[Problem]:
    analysis, arms = experiment.analysis, {arm.name: arm for arm in experiment.arms}
    isotropic = arms.get(analysis.isotropic_arm or "")
    contrast = arms.get(analysis.contrast_arm or "")
    if isotropic is not None and isotropic.direction not in CONTROL_KINDS:
        yield Problem(
            keys=("analysis", "isotropic_arm"),
            message=f"arm {isotropic.name} has direction {isotropic.direction}; "
            f"the control needs {' or '.join(f'`{kind}`' for kind in CONTROL_KINDS)}",
        )
    if contrast is not None and contrast.layer != "contrast":
        message = f"arm {contrast.name} is at layer {contrast.layer}; it needs `layer: contrast`"
        yield Problem(keys=("analysis", "contrast_arm"), message=message)


def _strengths(experiment: Experiment) -> Iterator[Problem]:
    analysis = experiment.analysis
    primary, second = analysis.primary_strength, analysis.co_primary_strength
    for field, label in (("primary_strength", primary), ("co_primary_strength", second)):
        if label is not None and label.number <= 0:
            message = f"{shown(str(label))} must push forwards, such as 'c=+2'"
            yield Problem(keys=("analysis", field), message=message)
    if second == primary:
        message = (
            f"{shown(str(second))} is the primary strength as well; write null to leave it out"
        )
        yield Problem(keys=("analysis", "co_primary_strength"), message=message)
    yield from _sign_check(analysis)


def _sign_check(analysis: AnalysisSettings) -> Iterator[Problem]:
    negative, second = analysis.negative_strength, analysis.co_primary_strength
    if negative is None:
        return
    place: Keys = ("analysis", "negative_strength")
    if second is None:
        message = (
            f"{shown(str(negative))} has no co_primary_strength to be compared with; write null"
        )
        yield Problem(keys=place, message=message)
        return
    if negative != -second:
        yield Problem(
            keys=place,
            message=f"{shown(str(negative))} must be the opposite of co_primary_strength "
            f"{shown(str(second))}",
        )


def _thresholds(experiment: Experiment) -> Iterator[Problem]:
    limits = experiment.analysis.thresholds
    for name in ("baseline_steered", "baseline_bridge", "no_correlation"):
        value = limits.model_dump()[name]
        if not -1 <= value <= 1:
            message = f"{value} is no correlation; allowed: -1 to 1"
            yield Problem(keys=("analysis", "thresholds", name), message=message)
    if limits.no_correlation > limits.rho:
        yield Problem(
            keys=("analysis", "thresholds", "no_correlation"),
            message=f"{limits.no_correlation} is above the passing rho {limits.rho}, "
            "so an arm could pass and be killed by it",
        )


def _load_bearing(experiment: Experiment) -> Iterator[Problem]:
    analysis = experiment.analysis
    if analysis.load_bearing == "steered_vs_baseline_arm" and analysis.baseline_arm is None:
        yield Problem(
            keys=("analysis", "load_bearing"),
            message="steered_vs_baseline_arm needs analysis.baseline_arm; "
            "allowed without it: 'steered_vs_prompted'",
        )


def _measured(experiment: Experiment) -> Iterator[Problem]:
    analysis = experiment.analysis
    yield from _needs_cell(experiment, "bridge_arm", analysis.bridge_arm, NONE, "persona")
    for field, label in (
        ("primary_strength", analysis.primary_strength),
        ("co_primary_strength", analysis.co_primary_strength),
        ("negative_strength", analysis.negative_strength),
    ):
        if label is not None:
            yield from _needs_cell(experiment, field, analysis.arm, label)
    for field, name in (
        ("baseline_arm", analysis.baseline_arm),
        ("isotropic_arm", analysis.isotropic_arm),
        ("contrast_arm", analysis.contrast_arm),
    ):
        if name is not None:
            yield from _needs_cell(experiment, field, name, analysis.primary_strength)
    if analysis.load_bearing == "steered_vs_prompted":
        yield from _needs_cell(experiment, "load_bearing", analysis.arm, NONE, "persona")


def _needs_cell(
    experiment: Experiment,
    field: str,
    name: str,
    strength: Strength,
    prompt: PromptKind = "neutral",
) -> Iterator[Problem]:
    arm = next((arm for arm in experiment.arms if arm.name == name), None)
    if arm is None:
        return  # reported as an unknown arm
    measured = measured_strengths(experiment, arm, prompt)
    if strength not in measured:
        labels = [str(one) for one in measured]
        yield Problem(
            keys=("analysis", field),
            message=f"no cell measures arm {name} under the {prompt} prompt at {strength}; "
            f"measured: {', '.join(labels) or 'nothing'}{did_you_mean(str(strength), labels)}",
        )


def measured_strengths(
    experiment: Experiment, arm: Arm, prompt: PromptKind
) -> tuple[Strength, ...]:
    """Strengths at which an arm is measured along its own direction, at its own layer."""
    own = arm.steered_direction
    labels: dict[Strength, None] = {}
    for grid in experiment.cells:
        if arm.name in grid.arms and grid.prompt == prompt and not grid.special:
            along = grid.direction in (None, own) and grid.layer in (None, arm.layer)
            labels |= dict.fromkeys(s for s in grid.strengths if along or s == NONE)
    return tuple(labels)


def _adapters(experiment: Experiment) -> Iterator[Problem]:
    for i, arm in enumerate(experiment.arms):
        if arm.adapters is not None:
            try:
                AdapterSource.parse(arm.adapters)
            except ValueError as error:
                yield Problem(keys=("arms", i, "adapters"), message=str(error))


CHECKS = (
    Check(reads={"model"}, find=_revision),
    Check(reads={"model", "layers"}, find=_layers),
    Check(reads={"layers"}, find=_layers_differ),
    Check(reads={"dataset", "personas", "reference_persona"}, find=_bystanders),
    Check(reads={"dataset", "personas", "arms"}, find=_doses),
    Check(reads={"dataset"}, find=_dose_rows),
    Check(reads={"dataset", "training"}, find=_training),
    Check(reads={"arms", "layers"}, find=_arms),
    Check(reads={"arms"}, find=_adapters),
    Check(reads={"arms", "dataset"}, find=_negatives),
    Check(reads={"arms", "cells", "layers"}, find=_grids),
    Check(reads={"arms", "analysis"}, find=_analysis_arms),
    Check(reads={"arms", "analysis"}, find=_control_arms),
    Check(reads={"analysis"}, find=_strengths),
    Check(reads={"analysis"}, find=_thresholds),
    Check(reads={"analysis"}, find=_load_bearing),
    Check(reads={"arms", "cells", "analysis"}, find=_measured),
)
