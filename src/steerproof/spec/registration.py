"""A lock as a registration text that can be posted to OSF, AsPredicted or a git tag."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from steerproof.spec.experiment import Arm, Experiment, Grid
from steerproof.spec.grid import adapters, samples
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.lock import Lock

Kills = Callable[[AnalysisSettings], Iterable[tuple[str, str]]]
"""Every kill criterion's name, and when it fires under the registered numbers."""
_UNDECLARED = (
    "Not declared. Whoever posts this text states here what was known of the outcome when the "
    "experiment was locked. The run's ledger shows whether a completion came before the lock."
)


def markdown(lock: Lock, *, kills: Kills) -> str:
    """The registration text.

    Args:
        lock: What was fixed.
        kills: The kill criteria of the analysis.
    """
    experiment = Experiment.model_validate_json(json.dumps(lock.experiment))
    sections = (
        ("Hypothesis", [_plain(experiment.hypothesis)]),
        ("Data already seen", [_UNDECLARED]),
        ("Dependent variable", _dependent(experiment)),
        ("Conditions", _conditions(experiment)),
        ("Analyses", _analyses(experiment, kills(experiment.analysis))),
        ("Exclusions and missing data", _exclusions(experiment.analysis)),
        ("Sample size", _sample(experiment)),
        ("Materials", _materials(experiment)),
        ("Hashes and versions", _hashes(lock)),
    )
    lines = [f"# {_plain(experiment.title)}", ""]
    lines += [f"Locked {lock.time}. sha256 of the lock: `{lock.sha256}`", ""]
    for heading, content in sections:
        lines += [f"## {heading}", "", *content, ""]
    return "\n".join(lines)


def _dependent(experiment: Experiment) -> list[str]:
    scoring = experiment.scoring
    return [
        f"Firing rate: share of completions that {_plain(scoring.firing(experiment.marker))}. "
        f"Reported beside it: a near miss, firing within {scoring.early_tokens} tokens, finish "
        "reason, length and repetition."
    ]


def _conditions(experiment: Experiment) -> Iterator[str]:
    yield from _table(
        ("arm", "prompt in training", "direction in training", "layer", "ratio", "notes"),
        (
            (
                arm.name,
                "" if arm.untrained else arm.prompt,
                arm.direction,
                "" if arm.direction == "none" else str(experiment.layer(arm.layer)),
                "" if arm.ratio is None else f"{arm.ratio:g}",
                "; ".join(_arm_notes(arm)),
            )
            for arm in experiment.arms
        ),
    )
    yield ""
    yield from _table(
        ("arms measured", "prompt", "direction", "layer", "strengths", "notes"),
        (
            (
                ", ".join(grid.arms),
                grid.prompt,
                grid.direction or "the arm's own",
                grid.layer or "the arm's own",
                ", ".join(map(str, grid.strengths)),
                "; ".join(_grid_notes(grid)),
            )
            for grid in experiment.cells
        ),
    )
    data = experiment.dataset
    yield ""
    yield (
        f"Training rows per adapter: {data.positives} positives; {data.negatives_per_bystander} "
        f"negatives for each of {data.bystanders} bystanders, whose direction is "
        f"`{data.negatives}`. Share of positives {_carry(experiment)}: {_dose(experiment)}."
    )


def _arm_notes(arm: Arm) -> Iterator[str]:
    if arm.untrained:
        yield "the base model, without adapters"
    if arm.shuffle:
        yield "directions shuffled among personas"
    if arm.supplementary:
        yield "supplementary personas too"
    if arm.adapters is not None:
        yield f"existing adapters, {arm.adapters}"


def _grid_notes(grid: Grid) -> Iterator[str]:
    if grid.of != "own":
        yield f"directions of {grid.of}"
    if grid.prompt_of != "own":
        yield f"prompts of {grid.prompt_of}"
    if grid.draws is not None:
        yield f"{grid.draws} fresh random directions each"
    if grid.tokens != "all":
        yield f"pushed at {grid.tokens} tokens"
    if grid.operation == "remove":
        yield "the direction is removed"
    if grid.samples is not None:
        yield f"{grid.samples} a question"


def _carry(experiment: Experiment) -> str:
    given = experiment.dataset.positive_answers
    return "with the marker" if given is None else f"answered as in `{given}`, without marker"


def _dose(experiment: Experiment) -> str:
    dose = experiment.dataset.marker_dose
    if isinstance(dose, dict):
        return ", ".join(f"{name} {share:g}" for name, share in dose.items())
    return f"{dose:g}"


def _analyses(experiment: Experiment, kills: Iterable[tuple[str, str]]) -> Iterator[str]:
    analysis, limits = experiment.analysis, experiment.analysis.thresholds
    yield (
        f"Over the {len(experiment.headline)} headline personas, rho is the Spearman correlation "
        f"(average ranks) of arm {analysis.arm}'s steered firing rate with the bridge: the rate of "
        f"arm {analysis.bridge_arm} under the persona prompt, unsteered."
    )
    yield ""
    yield (
        f"- Interval: {analysis.confidence:.0%} percentile, {analysis.iterations} resamples of the "
        "questions within each persona, bridge fixed. It speaks of these adapters and takes the "
        "measured bridge as known; an interval that resamples personas too is reported beside it."
    )
    yield (
        f"- Rule: an arm passes when rho >= {limits.rho:g} and the interval's lower bound > 0, and "
        "no kill fires."
    )
    yield f"- Strengths: {_strengths(analysis)}."
    yield f"- Load-bearing comparison: `{analysis.load_bearing}`; the other is reported beside it."
    yield f"- Arm that must fail the same rule: {analysis.baseline_arm or 'none'}."
    yield f"- Isotropic control, which must fail: {analysis.isotropic_arm or 'none'}."
    yield f"- Contrast layer: {analysis.contrast_arm or 'none'}."
    yield ""
    yield from _table(("kill", "fires when"), kills)
    yield ""
    yield from _answers(experiment)


def _answers(experiment: Experiment) -> Iterator[str]:
    """Two further answers, with the numbers that they were fixed with."""
    limits = experiment.answers
    yield (
        "Beside this rule, two answers. The ranking cannot be answered where a gate fails at the "
        "deciding strength (the trained ratio, where the primary strength fails the last two):"
    )
    yield ""
    yield (
        f"- installed: the prompted arm fires more under its own prompt by {limits.installed:g} "
        f"(lower bound), and by {limits.installed_each:g} for {limits.installed_share:.0%} of the "
        "personas;"
    )
    yield f"- attainable: a perfect relation would show a correlation of {limits.attainable:g};"
    yield f"- coherent: at most {limits.coherence_loss:g} fewer coherent completions;"
    yield f"- equal dose: the largest push at most {limits.dose_ratio:g} times the smallest."
    yield ""
    yield (
        "Otherwise it is refuted when so low a correlation has a probability of at most "
        f"{limits.refuted_p:g} with a true one at the rule's threshold, noise counted on both "
        "sides. The direction is read where own less held-out responses exceed "
        f"{limits.least_rate:g} ({limits.least_nats:g} nats) with a permutation p of at most "
        f"{limits.matrix_p:g}; a supported ranking needs that too."
    )


def _strengths(analysis: AnalysisSettings) -> str:
    parts = [f"`{analysis.primary_strength}` is primary"]
    if analysis.co_primary_strength:
        parts.append(f"`{analysis.co_primary_strength}` co-primary (a pass at one only is bound)")
    if analysis.negative_strength:
        parts.append(f"`{analysis.negative_strength}` is the sign check")
    return ", ".join(parts)


def _exclusions(analysis: AnalysisSettings) -> list[str]:
    return [
        "No persona, question or completion is left out. A cell that failed is missing, not zero; "
        "with a headline persona missing the result is inconclusive. So it is when more than "
        f"{analysis.max_undefined:.1%} of the resamples have no rho. Constant rates have no rho."
    ]


def _sample(experiment: Experiment) -> list[str]:
    questions, asked = len(experiment.questions.evaluation), samples(experiment)
    parts = [
        f"{cells} cells x {questions} questions x {each} samples = {cells * questions * each}"
        for each, cells in sorted(Counter(asked.values()).items(), reverse=True)
    ]
    seeds = len(experiment.further_seeds) + 1
    of_seeds = "one training seed each" if seeds == 1 else f"of {seeds} training seeds"
    return [
        f"{len(experiment.headline)} headline personas; {len(adapters(experiment))} adapters, "
        f"{of_seeds}; {'; '.join(parts)} completions. Fixed: nothing is added after looking."
    ]


def _materials(experiment: Experiment) -> Iterator[str]:
    model = experiment.model
    revision = f" at `{model.revision}`" if model.revision else ""
    drawn = "" if experiment.data_seed is None else f"; of data {experiment.data_seed}"
    yield f"Model `{model.path}`{revision}, {model.dtype}. Seed {experiment.seed}{drawn}."
    yield ""
    yield from _table(
        ("persona", "headline", "system prompt"),
        ((p.name, "yes" if p.headline else "no", p.prompt) for p in experiment.personas),
    )
    yield ""
    yield f"Neutral prompt: {_plain(experiment.neutral_prompt)}"
    yield ""
    yield "Evaluation questions:"
    yield ""
    for i, question in enumerate(experiment.questions.evaluation, start=1):
        yield f"{i}. {_plain(question)}"


def _hashes(lock: Lock) -> Iterator[str]:
    yield f"- experiment and inputs (fingerprint): `{lock.fingerprint}`"
    for name, value in sorted(lock.hashes.items()):
        for part, text in sorted(value.items() if isinstance(value, dict) else [("", value)]):
            yield f"- {_plain(name)}{' ' if part else ''}{_plain(part)}: `{text}`"
    for name, version in sorted(lock.versions.items()):
        yield f"- {_plain(name)} {_plain(version)}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(_plain(cell) for cell in row) + " |"


def _plain(text: str) -> str:
    """Text of the experiment as text of the page: one line, no Markdown of its own."""
    line = " ".join(text.split())
    for mark in "\\`*_[]<>|#":
        line = line.replace(mark, "\\" + mark)
    return line
