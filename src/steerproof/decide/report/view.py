"""Rows and words of the folded parts of a report, made of the inputs. No markup here."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from steerproof.decide.analysis.answer_records import MatrixResult, ThreeAnswers
from steerproof.decide.analysis.calibration import CLIFF, LayerCalibration
from steerproof.decide.analysis.gate_numbers import AttainableNumbers
from steerproof.decide.analysis.kills import criteria
from steerproof.decide.analysis.kinds import bridge_kind
from steerproof.decide.analysis.rates import lookup
from steerproof.decide.analysis.records import Bounds, PairedComparison
from steerproof.decide.report import wording
from steerproof.decide.report.inputs import ReportInputs, short_name
from steerproof.spec.experiment import Arm
from steerproof.spec.grid import CellKind, cells
from steerproof.spec.strength import Strength

_MOST_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KillRow:
    """One kill of one arm."""

    name: str
    meaning: str
    limit: str
    state: str
    """`fired`, `not fired` or `undecided`."""
    numbers: tuple[tuple[str, str], ...]
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLine:
    """One kind of cell over all personas."""

    kind: CellKind
    values: tuple[str, ...]
    """`57/100`, or `not measured`."""


def kill_rows(inputs: ReportInputs, arm: str) -> Iterator[KillRow]:
    """The kills of an arm with the numbers that decided each."""
    results = inputs.analysis.arms[arm].kills
    for criterion in criteria():
        if criterion.name not in results:
            continue  # registered since this analysis was made
        kill = results[criterion.name]
        yield KillRow(
            name=criterion.name,
            meaning=criterion.meaning,
            limit=wording.symbols(criterion.fires_when(inputs.experiment.analysis)),
            state=wording.yes(kill.fired, ("fired", "not fired")),
            numbers=tuple(
                (wording.symbols(criterion.numbers.get(key, key)), _kill_number(key, value))
                for key, value in kill.numbers.items()
            ),
            reason=kill.reason,
        )


def _kill_number(key: str, value: wording.Number) -> str:
    if key.startswith("rho"):
        return wording.signed(value)
    return wording.plain(value)


def rate_lines(inputs: ReportInputs) -> Iterator[RateLine]:
    """Every kind of cell that was asked for or measured, one value per persona."""
    personas = [persona.name for persona in inputs.experiment.personas]
    asked = cells(inputs.experiment)
    kinds = dict.fromkeys(c.kind for c in (*asked, *inputs.rates.cells) if c.plain)
    wanted = {(c.arm, c.persona) for c in asked}
    for kind in kinds:
        values = []
        for persona in personas:
            counts = lookup(inputs.rates, kind, persona)
            absent = "not measured" if (kind.arm, persona) in wanted else "not asked"
            values.append(absent if counts is None else f"{sum(counts.fired)}/{sum(counts.total)}")
        yield RateLine(kind=kind, values=tuple(values))


def coverage(inputs: ReportInputs) -> tuple[int, int]:
    """Cells measured and cells asked for."""
    asked = cells(inputs.experiment)
    return sum(cell in inputs.rates.cells for cell in asked), len(asked)


def absent_cells(inputs: ReportInputs) -> Iterator[tuple[str, str]]:
    """Every cell that was asked for and has no rates, and why."""
    for asked in cells(inputs.experiment):
        if asked not in inputs.rates.cells:
            yield asked.name, inputs.detail.absent.get(asked.name, "not measured")


def pushes_seen(inputs: ReportInputs) -> str:
    """How many pushes were seen to act, and where one was too small for that; empty for none."""
    pushed = [one for one in inputs.detail.fluency if one.push != "none"]
    small = Counter(
        f"arm {one.cell.arm}, {one.cell.prompt} prompt, {one.cell.direction} {one.cell.strength}"
        for one in pushed
        if one.push != "verified"
    )
    if not small:
        return f"{len(pushed)} of {len(pushed)}" if pushed else ""
    seen = len(pushed) - small.total()
    where = "; ".join(f"{name}: {count}" for name, count in small.most_common(_MOST_NAMED))
    more = f"; and {len(small) - _MOST_NAMED} more kinds" if len(small) > _MOST_NAMED else ""
    return (
        f"{seen} of {len(pushed)}. The others arrived at the size asked for; what they do to that"
        f" text is too small to be told from rounding ({where}{more})"
    )


def comparison_rows(pairs: Sequence[PairedComparison]) -> list[tuple[str, list[str]]]:
    """The comparisons side by side: name of the quantity, then one value per comparison."""

    def both(left: float | None, right: float | None) -> str:
        return f"{wording.fixed(left)} and {wording.fixed(right)}"

    def within(value: float | None, interval: Bounds | None) -> str:
        return f"{wording.signed(value)} ({wording.bounds(interval)})"

    rows = [
        ("Against", [pair.right for pair in pairs]),
        ("ρ with the bridge, both", [both(pair.rho_left, pair.rho_right) for pair in pairs]),
        (
            "Difference of ρ (interval)",
            [within(pair.rho_difference, pair.rho_difference_interval) for pair in pairs],
        ),
        (
            "ρ with each other (interval)",
            [within(pair.rho_between, pair.rho_between_interval) for pair in pairs],
        ),
        ("Mean rates, both", [both(pair.mean_left, pair.mean_right) for pair in pairs]),
        (
            "Difference of mean rates (interval)",
            [within(pair.mean_difference, pair.mean_difference_interval) for pair in pairs],
        ),
    ]
    if any(pair.reason for pair in pairs):
        rows.append(("Note", [pair.reason or "–" for pair in pairs]))
    return rows


def matrix_rows(matrices: Sequence[MatrixResult]) -> Iterator[tuple[str, ...]]:
    """Every matrix: arm, columns, strength, three means, S, p, and how often the own is first."""
    for matrix in matrices:
        nats = " nats" if matrix.scale == "margin" else ""
        means = (matrix.own, matrix.trained_negatives, matrix.held_out)
        s = "" if matrix.s is None else f"{wording.signed(matrix.s.value)}{nats} "
        within = matrix.reason if matrix.s is None else f"({wording.bounds(matrix.s.interval)})"
        yield (
            f"arm {matrix.arm}",
            matrix.columns.replace("_", "-"),
            matrix.strength,
            *("–" if mean is None else f"{wording.fixed(mean)}{nats}" for mean in means),
            f"{s}{within or ''}",
            "–" if matrix.p is None else wording.probability(matrix.p),
            "–" if matrix.own_first is None else f"{matrix.own_first} of {len(matrix.values)}",
        )


def outcome_rows(answers: ThreeAnswers) -> Iterator[tuple[str, ...]]:
    """The ranking on rates, then on margins.

    What was read, strength, both alphas, attainable and found correlation, interval, p at the
    threshold.
    """
    ranking = answers.ranking
    told = [g.numbers for g in ranking.gates if isinstance(g.numbers, AttainableNumbers)]
    alphas = (None, None, None)
    if told:
        alphas = (told[0].alpha_bridge, told[0].alpha_steered, told[0].attainable)
    yield (
        "rates",
        ranking.strength,
        *map(wording.fixed, alphas),
        wording.signed(ranking.rho),
        "not answered" if ranking.interval is None else wording.bounds(ranking.interval, 1),
        "–" if ranking.p_threshold is None else wording.probability(ranking.p_threshold),
    )
    for outcomes in answers.graded:
        texts = "own completions" if outcomes.text == "own" else "common answers"
        row = (f"margins, {texts}", outcomes.strength)
        if outcomes.reason is not None:
            yield (*row, *("–",) * 4, outcomes.reason, "–")
            continue
        alphas = (outcomes.alpha_bridge, outcomes.alpha_steered, outcomes.attainable)
        yield (
            *row,
            *map(wording.fixed, alphas),
            wording.signed(outcomes.rho),
            "none is left" if outcomes.interval is None else wording.bounds(outcomes.interval, 1),
            wording.probability(outcomes.p_threshold),
        )


def confound_rows(answers: ThreeAnswers) -> Iterator[tuple[str, ...]]:
    """What is held fixed, its span, strength, its correlations, the ranking's without and with."""
    for suspects in answers.confounds:
        alone = len(suspects.names) == 1
        one = f"{wording.plain(suspects.least)} to {wording.plain(suspects.most)}" if alone else "–"
        yield (
            " and ".join(suspects.names),
            one,
            suspects.strength,
            wording.signed(suspects.with_steered) if alone else "–",
            wording.signed(suspects.with_bridge) if alone else "–",
            wording.signed(suspects.rho),
            suspects.reason or wording.signed(suspects.partial),
            wording.fixed(suspects.needed),
        )


def push_rows(answers: ThreeAnswers) -> Iterator[tuple[str, ...]]:
    """Every other way to push: what, its rate, beside what, that rate, the difference."""
    for pushes in answers.pushes:
        gap = pushes.difference
        yield (
            pushes.kind,
            wording.fixed(pushes.rate),
            pushes.against,
            wording.fixed(pushes.usual),
            pushes.reason or "undefined"
            if gap is None
            else f"{wording.signed(gap.value)} ({wording.bounds(gap.interval)})",
        )


def comparisons(inputs: ReportInputs) -> dict[str, PairedComparison]:
    """The comparisons that could be made, each under its question."""
    compared = inputs.analysis.comparisons
    asked = {
        "Did training rescue steering?": compared.steered_vs_baseline_arm,
        "Did the direction replace the prompt?": compared.steered_vs_prompted,
    }
    return {question: pair for question, pair in asked.items() if pair is not None}


def bridge_line(inputs: ReportInputs) -> tuple[str, str]:
    """Smallest and largest bridge rate of a headline persona, in words."""
    kind = bridge_kind(inputs.experiment)
    bridge = [lookup(inputs.rates, kind, persona) for persona in inputs.experiment.headline]
    values = [counts.rate for counts in bridge if counts is not None]
    if not values:
        return "not measured", "not measured"
    return f"{min(values):z.2f}", f"{max(values):z.2f}"


def calibration_rows(
    measured: LayerCalibration, strength: Strength
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """One row per persona: norm, ratio at a strength, reliability, cosines."""
    for name, persona in measured.personas.items():
        ratio = measured.ratio(name, strength)
        yield (
            short_name(name),
            {
                "norm": wording.fixed(persona.norm),
                "ratio": wording.fixed(ratio),
                "beyond": wording.yes(None if ratio is None else abs(ratio) > CLIFF),
                "split_half": "unknown" if persona.imported else wording.fixed(persona.split_half),
                "imported": persona.imported or "",
                "neutral": wording.signed(persona.neutral_cosine),
                "reference": wording.signed(persona.reference_cosine),
            },
        )


def token_ratios(inputs: ReportInputs) -> str | None:
    """The push over each training token's own residual, smallest to largest adapter."""
    known = sorted(s.token_ratio for s in inputs.detail.training if s.token_ratio is not None)
    return f"{known[0]:.2f} to {known[-1]:.2f}" if known else None


def seconds_trained(inputs: ReportInputs) -> str:
    """Training time over all adapters, in words."""
    known: Sequence[float] = [s.seconds for s in inputs.detail.training if s.seconds is not None]
    return wording.duration(sum(known)) if known else "not measured"


def model_name(inputs: ReportInputs) -> str:
    """The model's name: a hub id as it is, of a directory the last part only."""
    path = inputs.experiment.model.path
    local = path.startswith((".", "/", "~")) or path.count("/") > 1
    return PurePath(path).name if local else path


def adapters_from(arm: Arm) -> str:
    """Where an arm's adapters come from; a directory by its last part."""
    if arm.untrained:
        return "none: the base model"
    if arm.adapters is None:
        return "trained here"
    # A path from the root tells where somebody's files lie; others only what they are.
    given = PurePath(arm.adapters)
    return f"loaded: {given.name if given.is_absolute() else arm.adapters}"
