"""Training sets: one per persona, shared by all arms.

Positives ask the source persona and carry the marker, or are answers of a behaviour that somebody
gave; negatives ask two other headline personas and do not. Which questions, bystanders and marked
rows are drawn follows from the experiment's seed and the persona's name alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerproof.spec.draws import bystanders, dataset_draw, trained_directions
from steerproof.spec.experiment import Arm, Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """One chat to train on."""

    persona: str
    """Whose prompt and direction the row carries: the source, or a bystander."""
    question: str
    answer: str
    """Completion text, with the marker if `marked`."""
    positive: bool
    """A row of the source persona."""
    marked: bool
    """The answer ends in the marker, or is one of the behaviour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The rows that teach one persona the marker."""

    source: str
    bystanders: tuple[str, ...]
    rows: tuple[TrainingRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the training rows answer, before any marker is added."""

    answers: Mapping[str, tuple[str, ...]]
    """By training question, in the order in which they are used."""
    redrawn: int
    """How many draws of the base model were thrown away; 0 for answers from a file."""


def asked_questions(experiment: Experiment) -> tuple[tuple[str, int], ...]:
    """The (question, repeat) pairs that need an answer.

    Training questions are asked in turn; when there are fewer than rows of a persona, they come
    round again with another answer.
    """
    data = experiment.dataset
    most = max(data.positives, data.negatives_per_bystander)
    questions = experiment.questions.training
    return tuple((questions[i % len(questions)], i // len(questions)) for i in range(most))


def build_dataset(
    experiment: Experiment,
    persona: str,
    answers: Mapping[str, Sequence[str]],
    positive: Mapping[str, Sequence[str]] | None = None,
) -> Dataset:
    """The rows of one persona.

    Args:
        experiment: Numbers of rows, seed, marker and dose.
        persona: The source.
        answers: For each training question its answers; repeat k takes answer k, in turn.
        positive: The same for positives, instead of an answer with the marker.
    """
    draw = dataset_draw(experiment, persona)
    chosen = bystanders(experiment, persona, draw)
    asked = asked_questions(experiment)
    positives = asked[: experiment.dataset.positives]
    marked = set(
        draw.sample(range(len(positives)), round(experiment.dose(persona) * len(positives)))
    )
    rows: list[TrainingRow] = []
    for i, pair in enumerate(positives):
        text = _answer(answers, pair)
        if i in marked:
            text = f"{text} {experiment.marker}" if positive is None else _answer(positive, pair)
        rows.append(_row(persona, pair, text, positive=True, marked=i in marked))
    for name in chosen:
        rows += [
            _row(name, pair, _answer(answers, pair), positive=False, marked=False)
            for pair in asked[: experiment.dataset.negatives_per_bystander]
        ]
    return Dataset(source=persona, bystanders=chosen, rows=tuple(rows))


def _answer(answers: Mapping[str, Sequence[str]], asked: tuple[str, int]) -> str:
    question, repeat = asked
    choices = answers[question]
    return choices[repeat % len(choices)].strip()


def _row(
    persona: str, asked: tuple[str, int], answer: str, *, positive: bool, marked: bool
) -> TrainingRow:
    return TrainingRow(
        persona=persona, question=asked[0], answer=answer, positive=positive, marked=marked
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What tells the model who is speaking in one training row."""

    system: str
    """System prompt."""
    direction: str | None
    """Persona whose direction is added; none adds nothing."""


def signal(experiment: Experiment, arm: Arm, source: str, row: TrainingRow) -> Signal:
    """The prompt and direction of a row in an arm, by the experiment's reading of negatives."""
    system = experiment.persona(row.persona).prompt
    reading = experiment.dataset.negatives
    if not row.positive and reading == "unsteered":
        return Signal(system=system, direction=None)
    if arm.prompt == "neutral":
        system = experiment.neutral_prompt
    if arm.direction == "none":
        return Signal(system=system, direction=None)
    own = source if reading == "source" else row.persona
    return Signal(system=system, direction=trained_directions(experiment, arm)[own])
