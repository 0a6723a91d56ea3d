"""Contradictions in what the model reads: personas, questions and the marker."""

from collections.abc import Iterable, Iterator

from steerproof.spec.experiment import Experiment
from steerproof.spec.problems import Check, Keys, Problem, did_you_mean, shown, twice

_MIN_HEADLINE = 3
"""Fewest personas that a rank correlation can be about."""


def normalised(text: str) -> str:
    """Text with letter case and white space evened out, for comparing questions."""
    return " ".join(text.casefold().split())


def _names_twice(experiment: Experiment) -> Iterator[Problem]:
    yield from twice("personas", (persona.name for persona in experiment.personas))


def _prompts(experiment: Experiment) -> Iterator[Problem]:
    first: dict[str, str] = {normalised(experiment.neutral_prompt): "neutral_prompt"}
    for i, persona in enumerate(experiment.personas):
        if not persona.headline:
            continue
        place: Keys = ("personas", i, "prompt")
        text = normalised(persona.prompt)
        if not text:
            yield Problem(
                keys=place,
                message=f"{persona.name} has an empty prompt; only a persona with "
                "`headline: false` may have one",
            )
            continue
        other = first.setdefault(text, persona.name)
        if other != persona.name:
            yield Problem(
                keys=place,
                message=f"{persona.name} has the same prompt as {other}, so the same direction; "
                "write another prompt or set `headline: false`",
            )


def _enough_headline(experiment: Experiment) -> Iterator[Problem]:
    count = len(experiment.headline)
    if count < _MIN_HEADLINE:
        yield Problem(
            keys=("personas",),
            message=f"{count} headline personas; a ranking needs at least {_MIN_HEADLINE}",
        )


def _reference(experiment: Experiment) -> Iterator[Problem]:
    names = [persona.name for persona in experiment.personas]
    if experiment.reference_persona not in names:
        yield Problem(
            keys=("reference_persona",),
            message=f"{shown(experiment.reference_persona)} is no persona; "
            f"allowed: {', '.join(names)}{did_you_mean(experiment.reference_persona, names)}",
        )


def _blank(experiment: Experiment) -> Iterator[Problem]:
    texts: list[tuple[Keys, str]] = [
        (("marker",), experiment.marker),
        (("neutral_prompt",), experiment.neutral_prompt),
    ]
    for keys, text in texts:
        if not text.strip():
            yield Problem(keys=keys, message=f"{shown(text)} is only white space")
    if experiment.marker.strip() and experiment.marker != experiment.marker.strip():
        message = f"{shown(experiment.marker)} begins or ends with white space"
        yield Problem(keys=("marker",), message=message)


def _questions(experiment: Experiment) -> Iterator[Problem]:
    for name, texts in _lists(experiment):
        first: dict[str, int] = {}
        for i, text in enumerate(texts):
            place: Keys = ("questions", name, i)
            earlier = first.setdefault(normalised(text), i)
            if not text.strip():
                yield Problem(keys=place, message=f"{shown(text)} is only white space")
            elif earlier != i:
                message = f"{shown(text)} repeats item {earlier} (counted from 0)"
                yield Problem(keys=place, message=message)


def _training_apart(experiment: Experiment) -> Iterator[Problem]:
    asked = [text for text in map(normalised, experiment.questions.evaluation) if text]
    for i, text in enumerate(experiment.questions.training):
        inside = next((q for q in asked if q in normalised(text)), None)
        if inside is not None:
            yield Problem(
                keys=("questions", "training", i),
                message=f"{shown(text)} contains the evaluation question {shown(inside)}; "
                "training must not see what is measured",
            )


def _marker_apart(experiment: Experiment) -> Iterator[Problem]:
    marker = experiment.marker.casefold()
    if not marker.strip():
        return
    texts: list[tuple[Keys, str]] = [(("neutral_prompt",), experiment.neutral_prompt)]
    texts += [(("personas", i, "prompt"), p.prompt) for i, p in enumerate(experiment.personas)]
    for name, questions in _lists(experiment):
        texts += [(("questions", name, i), text) for i, text in enumerate(questions)]
    for keys, text in texts:
        if marker in text.casefold():
            yield Problem(
                keys=keys,
                message=f"{shown(text)} contains the marker {shown(experiment.marker)}, "
                "so firing could be an echo",
            )


def _lists(experiment: Experiment) -> Iterable[tuple[str, tuple[str, ...]]]:
    questions = experiment.questions
    yield "evaluation", questions.evaluation
    yield "training", questions.training
    if not isinstance(questions.directions, str):
        yield "directions", questions.directions


CHECKS = (
    Check(reads={"personas"}, find=_names_twice),
    Check(reads={"personas", "neutral_prompt"}, find=_prompts),
    Check(reads={"personas"}, find=_enough_headline),
    Check(reads={"personas", "reference_persona"}, find=_reference),
    Check(reads={"marker", "neutral_prompt"}, find=_blank),
    Check(reads={"questions"}, find=_questions),
    Check(reads={"questions"}, find=_training_apart),
    Check(reads={"marker", "neutral_prompt", "personas", "questions"}, find=_marker_apart),
)
