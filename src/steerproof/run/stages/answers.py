"""Answers of the base model: of the training rows, and those that graded cells share."""

from collections.abc import Sequence
from functools import partial

from steerproof.run.artefacts.answers import to_files
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.names import COMMON
from steerproof.run.stages.base import base_of
from steerproof.run.stages.given import read_answers
from steerproof.run.stages.inputs import AnswersInputs, context_of, inputs_of
from steerproof.study.answers import AskedAnswers, answered, common_answers, own_answers
from steerproof.study.dataset import Answers


def answers(tasks: Sequence[Task]) -> Outcomes:
    """What the training rows answer: the user's JSON lines, or the base model's own words.

    Where positives have answers of their own, these stand beside them.

    For graded cells: its own words to the evaluation questions, drawn together with the others.
    """
    asked: dict[str, tuple[Task, Answers | None]] = {}
    drawn: list[AskedAnswers] = []
    for task in tasks:
        try:
            # Read first: a file with a mistake is told before anything is drawn.
            own = _positives(task)
            given = _given(task)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this unit's
            yield task.unit, error
            continue
        if isinstance(given, Answers):
            yield task.unit, to_files(given, own)
        else:
            asked[given.name] = task, own
            drawn.append(given)
    if drawn:
        task, _ = asked[drawn[0].name]
        settings = inputs_of(task, AnswersInputs).part.generation
        for one, outcome in answered(base_of(task), drawn, settings, task.teller):
            task, own = asked[one.name]
            failed = isinstance(outcome, Exception)
            yield task.unit, outcome if failed else partial(to_files, outcome, own)


def _given(task: Task) -> Answers | AskedAnswers:
    """The answers of the user's file, or what the base model is to be asked."""
    asked = inputs_of(task, AnswersInputs)
    experiment = asked.part
    if task.unit == COMMON:
        return common_answers(experiment, asked.common)
    source = experiment.dataset.answers
    if source == "base":
        return own_answers(experiment)
    questions = experiment.questions.training
    return read_answers(context_of(task).directory / source, questions, experiment.marker)


def _positives(task: Task) -> Answers | None:
    """What positives answer, where they have answers of their own."""
    experiment = inputs_of(task, AnswersInputs).part
    if task.unit == COMMON or experiment.dataset.positive_answers is None:
        return None
    file = context_of(task).directory / experiment.dataset.positive_answers
    return read_answers(file, experiment.questions.training, None)
