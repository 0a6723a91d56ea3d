"""The three answers in words, with their numbers. Every report, page and terminal says these."""

from collections.abc import Iterator, Sequence

from steerproof.decide.analysis.answer_records import (
    Carries,
    DirectionAnswer,
    MatrixResult,
    Ranking,
    RankingAnswer,
    Reads,
    ThreeAnswers,
)
from steerproof.decide.analysis.direction import selective
from steerproof.decide.analysis.gate_numbers import (
    AttainableNumbers,
    CoherentNumbers,
    DoseNumbers,
    GateNumbers,
    InstalledNumbers,
)
from steerproof.decide.analysis.gates import Gate
from steerproof.decide.analysis.readings import (
    NOT_EXPRESSIVE,
    NOTHING_TO_EXPLAIN,
    TRAINING_GAP,
    UNDECIDED,
)
from steerproof.decide.analysis.records import Analysis
from steerproof.spec.experiment import CONTROL_KINDS, Experiment
from steerproof.spec.judging import AnswerSettings

_READ_IN_ANOTHER_ORDER = (
    "the direction is read; how strongly has another order than the prompted rates"
)
_READ_UNRANKED = (
    "the direction is read by the adapters that were trained with it; whether in the order of the "
    "prompted rates, this run does not say"
)
_ORDER_ONLY = (
    "the steered ranking is not that of the prompted rates; whether the direction is read, this "
    "run does not say"
)
_ANY_PUSH = "not specific: the adapters answer to any push of that size"
SUBSPACE = "the adapters answer to persona directions, whichever: not to their own"
_SILENCE_ONLY = "the adapters have learnt what to be silent at, not what to fire at"
_NO_PUSH = "the adapters do not answer to the push, and why, this run cannot say"
_LEADS = {
    Reads.OWN: "The adapters read their own direction",
    Reads.SUBSPACE: "The adapters answer to persona directions, whichever",
    Reads.NEGATIVES: "The adapters have learnt what to be silent at, not what to fire at",
    Reads.ANY: "The adapters answer to any push of that size",
    Reads.NONE: "The adapters do not answer to the push",
    Reads.UNDECIDED: "What the adapters read is undecided",
}
_COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def three_lines(
    answers: ThreeAnswers, registered: Analysis, experiment: Experiment
) -> tuple[str, str, str]:
    """As registered, ranking, direction and prompt: each a line of whole sentences."""
    return (
        _registered_line(registered),
        _ranking_line(answers),
        _direction_line(answers, experiment, registered.arm),
    )


def _registered_line(registered: Analysis) -> str:
    """What the seed's own rule says."""
    primary = registered.tested.primary
    fired = [name for name, kill in registered.tested.kills.items() if kill.fired]
    rho = "no rho" if primary.rho is None else f"rho {primary.rho:z.2f}"
    bounds = "no interval" if primary.interval is None else f"interval {_span(primary.interval)}"
    numbers = f"{rho}, {bounds}"
    parts = [", ".join(fired), numbers] if fired else [numbers]
    return f"As registered: {registered.verdict} ({'; '.join(parts)})."


def _ranking_line(answers: ThreeAnswers) -> str:
    """Whether the steered ranking is that of the prompted rates."""
    ranking, subject = answers.ranking, answers.seeds.subject
    moved = f" ({ranking.moved})" if ranking.moved else ""
    if ranking.answer is Ranking.CANNOT_ANSWER:
        return f"The ranking cannot be answered: {_joined(tuple(_failures(ranking)))}."
    unknown = [gate for gate in ranking.gates if gate.fatal and gate.passed is None]
    notes = "".join(f" {_name(gate)} is {gate.finding}." for gate in unknown)
    if ranking.rho is None or ranking.p_threshold is None:
        return f"The ranking is undecided: {ranking.reason}.{notes}"
    numbers = f"at {ranking.strength}{moved} rho is {ranking.rho:z.2f}"
    range_ = "no true correlation explains it"
    if ranking.interval is not None:
        range_ = f"the data allow a true one of {_span(ranking.interval, 1)} among {subject}"
    if ranking.answer is Ranking.REFUTED:
        excluded = f"a true correlation of {ranking.threshold:g} is excluded, p = "
        return (
            f"The ranking is REFUTED: {numbers}; {excluded}{_p(ranking.p_threshold)}, and "
            f"{range_}.{notes}"
        )
    if ranking.answer is Ranking.SUPPORTED:
        return f"The ranking is SUPPORTED: {numbers}; {range_}.{notes}"
    return f"The ranking is INCONCLUSIVE: {ranking.reason} ({range_}){moved}.{notes}"


def _name(gate: Gate) -> str:
    return {
        "installed": "Whether the prompted adapters know their persona",
        "attainable": "The attainable rho",
        "coherent": "Whether text stays whole",
        "equal_dose": "Whether all personas are pushed alike",
    }[gate.name]


def _failures(ranking: RankingAnswer) -> Iterator[str]:
    """What fails at the deciding strength, and what failed at the primary one."""
    deciding = {gate.name: gate for gate in ranking.gates}
    primary = {gate.name: gate for gate in ranking.primary_gates}
    # With a cell missing, one of the two is unknown, and an unknown gate has no numbers.
    failing = {
        name: next(one for one in (gate, deciding[name]) if one.passed is False)
        for name, gate in primary.items()
        if gate.passed is False or deciding[name].passed is False
    }
    for name, gate in failing.items():
        match gate.numbers:
            case InstalledNumbers() as told:
                yield _not_installed(told)
            case AttainableNumbers():
                yield _unattainable(primary[name].numbers, deciding[name].numbers, ranking.strength)
            case CoherentNumbers() as told:
                yield _incoherent(told, gate.at)
            case DoseNumbers() as told if told.dose_ranked or "coherent" not in failing:
                yield _unequal(told, gate.at)
            case _:
                pass


def _not_installed(told: InstalledNumbers) -> str:
    others = "neutral" if told.prompts == 1 else "others"
    return (
        "the prompted adapters did not learn whom to fire for (persona "
        f"{told.own:.2f}, {others} {told.others:.2f}; difference "
        f"{told.difference:z.3f}, {told.low:z.2f} to {told.high:z.2f})"
    )


def _unattainable(primary: GateNumbers, deciding: GateNumbers, strength: str) -> str:
    told = [numbers for numbers in (primary, deciding) if isinstance(numbers, AttainableNumbers)]
    first, last = told[0], told[-1]
    shown = f"{first.attainable:.2f}"
    if abs(first.attainable - last.attainable) >= 0.005:
        shown = f"{shown} ({last.attainable:.2f} at {strength})"
    if first.attainable < 0.05:
        alpha = first.alpha_bridge
        side = "bridge has" if alpha is None or alpha <= 0 else "steered rates have"
        return f"the {side} no reliable order (attainable rho {first.attainable:.2f})"
    return f"the bridge's attainable rho is {shown}"


def _incoherent(told: CoherentNumbers, strength: str) -> str:
    """The tested arm if it is broken, or else the one that lost most, and what is left of it."""
    tested, *_ = told.arms
    broken = max(told.arms, key=lambda arm: told.arms[arm].lost)
    broken = tested if told.arms[tested].lost > told.limit else broken
    whose = "" if broken == tested else f"arm {broken}'s "
    text = told.arms[broken]
    if text.unsteered - text.ended > told.limit:
        return f"at {strength} {text.ended:.0%} of {whose}completions end"
    return f"at {strength} {text.coherent:.0%} of {whose}completions are coherent"


def _unequal(told: DoseNumbers, strength: str) -> str:
    pushes = f"{strength} pushes {told.smallest:.2f} to {told.largest:.2f} of the baseline"
    if not told.dose_ranked:
        return pushes
    rho = told.rho_rate_push
    return f"{pushes}, which orders the rates (rho {rho:z.2f} with the size of the push)"


def _direction_line(answers: ThreeAnswers, experiment: Experiment, arm: str) -> str:
    """What the adapters read, and whether it carries to the prompt."""
    answer = answers.direction
    if answer.tested is None or answer.tested.s is None:
        return " ".join(_unmeasured(answer, arm))
    analysis = experiment.analysis
    sentences = [
        f"{_LEADS[answer.reads]}: {_numbers(answer.tested)}{_baseline(answer, experiment)}."
    ]
    sentences += _trained_label(answer)
    random = (
        None
        if analysis.isotropic_arm == arm
        else _matrix(answer, analysis.isotropic_arm, CONTROL_KINDS)
    )
    if random is not None and random.s is not None:
        sentences.append(_random(random, experiment.answers))
    sentences += _prompts(answer, experiment, arm)
    sentences += _graded(answer, analysis.baseline_arm)
    sentences += _over_seeds(answers)
    return " ".join(sentences)


def _unmeasured(answer: DirectionAnswer, arm: str) -> Iterator[str]:
    signs = answer.signs
    if signs is not None:
        rises = signs.ordered >= 0.8 * signs.personas
        numbers = f"({signs.against:.2f}, {signs.unsteered:.2f}, {signs.along:.2f})"
        verb = "raises the rate and against it lowers it for" if rises else "moves the rate for"
        yield (
            f"Pushing arm {arm} along its direction {verb} {_count(signs.ordered)} of "
            f"{_count(signs.personas)} {numbers}."
        )
    if answer.tested is not None:
        yield f"Whether its own direction is needed is not known: {answer.tested.reason}."
    else:
        yield "Whether its own direction is needed was not measured."


def _numbers(matrix: MatrixResult) -> str:
    classes = [(matrix.own, "own"), (matrix.trained_negatives, "trained negatives")]
    classes.append((matrix.held_out, "other personas"))
    shown = ", ".join(f"{value:z.2f} {name}" for value, name in classes if value is not None)
    return f"{shown}; {_s(matrix)}"


def _s(matrix: MatrixResult, unit: str = "") -> str:
    if matrix.s is None or matrix.p is None:
        return "S unknown"
    return f"S = {_fixed(matrix.s.value)}{unit} ({_span(matrix.s.interval)}), p = {_p(matrix.p)}"


def _baseline(answer: DirectionAnswer, experiment: Experiment) -> str:
    baseline = _matrix(answer, experiment.analysis.baseline_arm, ("centroid",))
    if baseline is None or baseline.s is None or baseline is answer.tested:
        return ""
    value = _fixed(baseline.s.value)
    if selective(baseline, experiment.answers):
        return f"; prompt-trained ones do too ({value})"
    if baseline.s.upper < experiment.answers.least_rate:
        return f"; prompt-trained ones do not ({value})"
    return f"; whether prompt-trained ones do is undecided ({value}, {_span(baseline.s.interval)})"


def _random(random: MatrixResult, limits: AnswerSettings) -> str:
    """Whether the arm trained with random directions answers to its own."""
    assert random.s is not None
    value = _fixed(random.s.value)
    if selective(random, limits):
        return f"A random direction is learnt as well ({value})."
    if random.s.upper < limits.least_rate:
        return f"A random direction is not learnt ({value})."
    return (
        f"Whether a random direction is learnt is undecided ({value}, {_span(random.s.interval)})."
    )


def _trained_label(answer: DirectionAnswer) -> Iterator[str]:
    """Of a shuffled arm: what it was really trained with."""
    for matrix in answer.matrices:
        tested = answer.tested
        same = tested is not None and (matrix.arm, matrix.scale) == (tested.arm, tested.scale)
        if matrix.trained_label and same:
            yield f"Named by the directions that they were trained with, {_s(matrix)}."


def _prompts(answer: DirectionAnswer, experiment: Experiment, arm: str) -> Iterator[str]:
    ours = _matrix(answer, arm, ("prompt",))
    theirs = _matrix(answer, experiment.analysis.isotropic_arm, ("prompt",))
    if answer.carries is Carries.NOT_MEASURED or ours is None or ours.s is None:
        yield "Whether it carries to the prompt was not measured."
        return
    against = "" if theirs is None or theirs.s is None else f" against {_fixed(theirs.s.value)}"
    numbers = f"({_fixed(ours.s.value)}{against})"
    yield {
        Carries.YES: f"Only the centroid carries to the prompt {numbers}."
        if against
        else f"It carries to the prompt {numbers}.",
        Carries.BOTH: f"It carries to the prompt, and so does a random direction {numbers}.",
        Carries.NO: f"It does not carry to the prompt {numbers}.",
        Carries.UNDECIDED: f"Whether it carries to the prompt is undecided {numbers}.",
    }[answer.carries]


def _graded(answer: DirectionAnswer, baseline: str | None) -> Iterator[str]:
    tested = answer.tested
    ours = _matrix(answer, tested.arm if tested else None, ("centroid", "isotropic"), "margin")
    theirs = _matrix(answer, baseline, ("centroid",), "margin")
    if ours is not None and ours.s is not None:
        yield f"In margins, {_s(ours, ' nats')}."
    if theirs is not None and theirs.s is not None and theirs is not ours:
        share = ""
        if answer.fraction is not None:
            low, high = answer.fraction.interval
            share = (
                f", {answer.fraction.value:z.0%} ({low:z.0%} to {high:z.0%}) of the prompt's effect"
            )
        yield f"Prompt-trained ones, {_s(theirs, ' nats')}{share}."


def _over_seeds(answers: ThreeAnswers) -> Iterator[str]:
    results = answers.seeds.results
    if not results:
        return
    same = sum(result.reads is answers.direction.reads for result in results)
    values = ", ".join("none" if r.s is None else f"{r.s:z.2f}" for r in results)
    yield f"The same on {_count(same)} of {_count(len(results))} training seeds (S = {values})."


def _matrix(
    answer: DirectionAnswer, arm: str | None, columns: Sequence[str], scale: str = "rate"
) -> MatrixResult | None:
    fitting = [
        matrix
        for matrix in answer.matrices
        if matrix.arm == arm
        and matrix.columns in columns
        and matrix.scale == scale
        and not matrix.trained_label
    ]
    own = [m for m in fitting if answer.tested is not None and m.strength == answer.tested.strength]
    return (own or fitting or [None])[0]


def reading(answers: ThreeAnswers, registered: Analysis, experiment: Experiment) -> str:
    """What all of it means for the question of the title."""
    said, ranking = answers.direction.reads, answers.ranking.answer
    prompt_only = experiment.arm(registered.arm).direction == "none"
    sound = all(gate.passed is True for gate in answers.ranking.gates if gate.fatal)
    if ranking is Ranking.REFUTED and sound and said in (Reads.ANY, Reads.NONE):
        return registered.reading if prompt_only else NOT_EXPRESSIVE
    if said is Reads.NOT_MEASURED and prompt_only:
        return registered.reading
    if said is Reads.OWN:
        return _own_reading(answers, prompt_only=prompt_only)
    unmeasured = _ORDER_ONLY if ranking is Ranking.REFUTED else UNDECIDED
    words = {
        Reads.ANY: _ANY_PUSH,
        Reads.SUBSPACE: SUBSPACE,
        Reads.NEGATIVES: _SILENCE_ONLY,
        Reads.NONE: _NO_PUSH,
        Reads.NOT_MEASURED: unmeasured,
    }
    return words.get(said, UNDECIDED)


def _own_reading(answers: ThreeAnswers, *, prompt_only: bool) -> str:
    if prompt_only or answers.direction.supports is False:
        return NOTHING_TO_EXPLAIN
    if answers.ranking.answer is Ranking.REFUTED:
        return _READ_IN_ANOTHER_ORDER
    return TRAINING_GAP if answers.ranking.answer is Ranking.SUPPORTED else _READ_UNRANKED


def _joined(phrases: tuple[str, ...]) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])}, and {phrases[-1]}"


def _span(bounds: tuple[float, float], digits: int = 2) -> str:
    return f"{_fixed(bounds[0], digits)} to {_fixed(bounds[1], digits)}"


def _fixed(value: float, digits: int = 2) -> str:
    """Rounded; what rounds to nothing has no sign."""
    return f"{value:z.{digits}f}"


def _p(p: float) -> str:
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def _count(number: int) -> str:
    return _COUNTS[number] if number < len(_COUNTS) else str(number)
