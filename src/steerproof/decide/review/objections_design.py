"""Objections that follow from the experiment file alone."""

import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from steerproof.decide.analysis.calibration import CLIFF
from steerproof.decide.analysis.kills import criteria
from steerproof.decide.analysis.kinds import arm_cells
from steerproof.decide.analysis.matrix import restricted_orders
from steerproof.decide.analysis.rig import negatives_of
from steerproof.decide.review.evidence import Objection
from steerproof.spec.check_texts import normalised
from steerproof.spec.experiment import Arm, Experiment
from steerproof.spec.grid import CellKind, cells

_NEAR_DUPLICATE = 0.8
"""Share of common words (Jaccard) from which two questions count as the same one."""
_FEW_QUESTIONS = 10
"""Below this, resampling questions gives intervals that are clearly too narrow."""
_ENOUGH_ORDERS = 19
"""Orders besides the true one with which a p of 0.05 can be reached."""


def design_objections(
    experiment: Experiment, training_seeds: int, coverage: float | None
) -> Iterator[Objection]:
    """Everything to object to before anything is measured, except power.

    Args:
        experiment: As loaded.
        training_seeds: Seeds for which each adapter exists.
        coverage: Simulated coverage of the registered interval for personas in general.
    """
    yield from _exploratory(experiment)
    yield from _double_use(experiment)
    yield from _near_questions(experiment)
    yield from _constant_direction(experiment)
    yield from _fixed_personas(experiment, coverage)
    yield from _one_seed(experiment, training_seeds)
    yield from _confounded_arms(experiment)
    yield from _arm_without_signal(experiment)
    yield from _beyond_cliff(experiment)
    yield from _unmeasured_kills(experiment)
    yield from _few_questions(experiment)
    yield from _few_orders(experiment)


def _exploratory(experiment: Experiment) -> Iterator[Objection]:
    if experiment.exploratory is not None:
        yield Objection(
            code="exploratory",
            severity="serious",
            finding=f"the experiment says that it is exploratory: {experiment.exploratory}."
            " The best of several looks better than it is, so this verdict confirms nothing",
            remedy="choose a setting, then run it once as an experiment of its own, on other"
            " questions and another seed",
        )


def adapters_of_others(experiment: Experiment, known: Collection[str]) -> Iterator[Objection]:
    """Existing adapters of which nobody says how they were trained.

    Args:
        experiment: As loaded.
        known: Arms whose adapters say that they were trained under this experiment's prompts.
    """
    arms = [a.name for a in experiment.arms if a.adapters is not None and a.name not in known]
    if arms:
        yield Objection(
            code="adapters_of_unknown_prompts",
            severity="serious",
            finding=f"the adapters of {len(arms)} arm(s) ({', '.join(arms)}) came from elsewhere"
            " and do not say that they were trained under the prompts of this file, which may be"
            f" stand-ins{_empty_prompts(experiment)}: the rates under them, and differences between"
            " arms, may come from that alone",
            remedy="give the prompts that they were trained under, train the arm here, or use"
            " adapters that `steerproof adapters export` wrote, which say their prompts",
            numbers={"arms": len(arms)},
        )


def _empty_prompts(experiment: Experiment) -> str:
    """The personas whose prompt is empty here, which was some text wherever they were trained."""
    names = [persona.name for persona in experiment.personas if not persona.prompt]
    return f" (that of {', '.join(names)} is empty)" if names else ""


def similarity(left: str, right: str) -> float:
    """Jaccard index of the words of two questions: common words over all words."""
    first, second = _words(left), _words(right)
    return len(first & second) / max(len(first | second), 1)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _double_use(experiment: Experiment) -> Iterator[Objection]:
    asked = {normalised(question) for question in experiment.questions.evaluation}
    shared = [q for q in experiment.direction_questions if normalised(q) in asked]
    if shared:
        yield Objection(
            code="double_use",
            severity="serious",
            finding=f"{len(shared)} of {len(asked)} evaluation questions also extract the "
            "direction, so the direction may fit these questions",
            remedy="give questions.directions a held-out set of about 40 questions",
            numbers={"shared": len(shared), "evaluation": len(asked)},
        )


def _near_questions(experiment: Experiment) -> Iterator[Objection]:
    pairs = [
        (similarity(trained, asked), trained, asked)
        for trained in experiment.questions.training
        for asked in experiment.questions.evaluation
    ]
    near = sorted((pair for pair in pairs if pair[0] >= _NEAR_DUPLICATE), reverse=True)
    if near:
        share, trained, asked = near[0]
        yield Objection(
            code="repeated_questions",
            severity="serious",
            finding=f"{len(near)} training questions nearly repeat an evaluation question: "
            f"'{trained}' shares {share:.0%} of its words with '{asked}'",
            remedy="reword or drop those training questions",
            numbers={"pairs": len(near), "largest_similarity": share, "limit": _NEAR_DUPLICATE},
        )


def _constant_direction(experiment: Experiment) -> Iterator[Objection]:
    steered = [arm.name for arm in experiment.arms if arm.direction != "none"]
    if experiment.dataset.negatives == "source" and steered:
        data = experiment.dataset
        rows = data.positives + data.bystanders * data.negatives_per_bystander
        yield Objection(
            code="constant_direction",
            severity="serious",
            finding=f"`negatives: source` gives all {rows} rows of an adapter the same direction "
            f"({', '.join(steered)}): it cannot tell when to fire, so training has no reason to "
            "read it",
            remedy="set dataset.negatives to `own`, or to `unsteered`",
            numbers={"rows": rows, "directions": 1},
        )


def _fixed_personas(experiment: Experiment, coverage: float | None) -> Iterator[Objection]:
    count, analysis = len(experiment.headline), experiment.analysis
    if analysis.estimand == "these_personas":
        return
    general = analysis.estimand == "personas_in_general"
    covered = "" if coverage is None else f" ({coverage:.0%} in simulated runs)"
    yield Objection(
        code="fixed_personas",
        severity="serious" if general else "note",
        finding=f"the registered {analysis.confidence:.0%} interval resamples questions within "
        f"{count} fixed personas; of personas in general it covers the truth far less often"
        f"{covered}" + (", and those are what the claim is about" if general else ""),
        remedy="base the claim on the two-level interval, with more personas"
        if general
        else "declare analysis.estimand: these_personas, and read the two-level interval for more",
        numbers={"personas": count, "coverage": coverage, "confidence": analysis.confidence},
    )


def _one_seed(experiment: Experiment, training_seeds: int) -> Iterator[Objection]:
    trained = [arm.name for arm in experiment.adapter_arms if arm.adapters is None]
    training_seeds = max(training_seeds, len(experiment.further_seeds) + 1)
    if trained and training_seeds < 2:
        yield Objection(
            code="one_seed",
            severity="note",
            finding=f"each adapter of {', '.join(trained)} is trained with {training_seeds} seed; "
            "the variation between trainings is not estimated",
            remedy=f"write seeds: [{experiment.seed}, {experiment.seed + 1}, "
            f"{experiment.seed + 2}], or run again with another `seed`",
            numbers={"training_seeds": training_seeds},
        )


def _differences(left: Arm, right: Arm) -> list[str]:
    """The settings in which two arms differ; those of a direction only where both have one."""
    fields = ["prompt", "direction", "shuffle"]
    if "none" not in (left.direction, right.direction):
        fields += ["layer", "ratio"]
    a, b = left.model_dump(), right.model_dump()
    differing = [name for name in fields if a[name] != b[name]]
    if (left.adapters is None) != (right.adapters is None):
        differing.append("who trained them")
    return differing


def _confounded_arms(experiment: Experiment) -> Iterator[Objection]:
    analysis = experiment.analysis
    tested = experiment.arm(analysis.arm)
    for name in (analysis.baseline_arm, analysis.isotropic_arm, analysis.contrast_arm):
        if name is None:
            continue
        control = experiment.arm(name)
        differing = _differences(tested, control)
        if len(differing) < 2:
            continue
        between = [
            arm.name
            for arm in experiment.adapter_arms
            if len(_differences(tested, arm)) == 1 and len(_differences(arm, control)) == 1
        ]
        yield Objection(
            code="confounded_arms",
            severity="note" if between else "serious",
            finding=f"arms {tested.name} and {name} differ in {len(differing)} things: "
            f"{', '.join(differing)}; a difference between them has {len(differing)} explanations",
            remedy=f"arm {between[0]} differs from each in one: report it beside them"
            if between
            else "add an arm that differs from each of them in one thing",
            numbers={"differences": differing, "between": between},
        )


def _arm_without_signal(experiment: Experiment) -> Iterator[Objection]:
    for arm in experiment.adapter_arms:
        if (arm.prompt, arm.direction) == ("neutral", "none"):
            yield Objection(
                code="arm_without_signal",
                severity="serious",
                finding=f"arm {arm.name} trains with the neutral prompt and 0 directions: its "
                "positives and negatives look the same",
                remedy="give it a direction or the persona prompt",
                numbers={"arm": arm.name, "signals": 0},
            )


def _beyond_cliff(experiment: Experiment) -> Iterator[Objection]:
    asked = {
        str(strength): abs(strength.number)
        for grid in experiment.cells
        for strength in grid.strengths
        if strength.kind == "ratio" and abs(strength.number) > CLIFF
    }
    asked |= {f"arm {a.name}": a.ratio for a in experiment.arms if a.ratio and a.ratio > CLIFF}
    if asked:
        yield Objection(
            code="beyond_cliff",
            severity="serious",
            finding=f"{', '.join(asked)} push with up to {max(asked.values()):.2f} of the baseline "
            f"norm; above {CLIFF} the published run lost the marker and much of its fluency",
            remedy=f"stay below a ratio of {CLIFF}; 0.2 kept the text fluent",
            numbers={"ratios": asked, "limit": CLIFF},
        )


def _unmeasured_kills(experiment: Experiment) -> Iterator[Objection]:
    arm = experiment.analysis.arm
    asked = {cell.kind for cell in cells(experiment) if cell.plain}
    looked_at = arm_cells(experiment, arm, asked)
    lacking = {c.name: _lacking(c.cells(looked_at), asked) for c in criteria()}
    missing = [f"{name} ({words})" for name, words in lacking.items() if words]
    if missing:
        count = len(criteria())
        yield Objection(
            code="unmeasured_kills",
            severity="serious",
            finding=f"{len(missing)} of {count} kills cannot be decided, so the verdict cannot be "
            f"SUPPORTED; not measured: {'; '.join(missing)}",
            remedy="add those cells",
            numbers={"undecided": len(missing), "kills": count},
        )


def _lacking(kinds: Sequence[CellKind | None], asked: Collection[CellKind]) -> str:
    """The cells among those that a kill needs that no grid asks for, in words."""
    strengths: dict[tuple[str, str], list[str]] = {}
    for kind in kinds:
        if kind is not None and kind not in asked:
            strengths.setdefault((kind.prompt, kind.arm), []).append(str(kind.strength))
    words = [
        f"{prompt} prompt at {' and '.join(labels)} in arm {arm}"
        for (prompt, arm), labels in strengths.items()
    ]
    return ", ".join([*words, *(["an isotropic arm, or isotropic cells"] * (None in kinds))])


def _few_questions(experiment: Experiment) -> Iterator[Objection]:
    count = len(experiment.questions.evaluation)
    if count < _FEW_QUESTIONS:
        yield Objection(
            code="few_questions",
            severity="note",
            finding=f"{count} evaluation questions: resampling so few gives too narrow intervals",
            remedy=f"ask at least {_FEW_QUESTIONS}; more questions help more than more samples",
            numbers={"questions": count, "limit": _FEW_QUESTIONS},
        )


def _few_orders(experiment: Experiment) -> Iterator[Objection]:
    """A matrix whose every result is possible by chance: its p compares orders of directions."""
    if not any(grid.of == "all" for grid in experiment.cells):
        return
    arm = experiment.arm(experiment.analysis.arm)
    trained = negatives_of(experiment, arm)
    if restricted_orders(~trained, np.random.default_rng(0), _ENOUGH_ORDERS) is not None:
        return
    count, each = len(trained), int(trained.sum(axis=1).max(initial=0))
    yield Objection(
        code="few_orders",
        severity="serious",
        finding=f"with {count} personas, of which an adapter is trained to ignore {each}, too few"
        " directions are left that it never saw: no result of the matrix can reach p = 0.05, so"
        " whether adapters read their own direction stays unknown",
        remedy="add personas (seven with two bystanders each are enough), or lower"
        " dataset.bystanders",
        numbers={"personas": count, "ignored": each},
    )
