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
    drawn: dict[str, tuple[Task, AskedAnswers, Answers | None]] = {}
    for task in tasks:
        try:
            given, own = _given(task)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this unit's
            yield task.unit, error
            continue
        if isinstance(given, Answers):
            yield task.unit, to_files(given, own)
        else:
            drawn[given.name] = task, given, own
    if drawn:
        asked = [given for _, given, _ in drawn.values()]
        for one, outcome in answered(base_of(tasks[0]), asked, tasks[0].teller):
            task, _, own = drawn[one.name]
            failed = isinstance(outcome, Exception)
            yield task.unit, outcome if failed else partial(to_files, outcome, own)


def _given(task: Task) -> tuple[Answers | AskedAnswers, Answers | None]:
    """The answers of the user's file, or what the base model is to be asked; and positives' own.

    So a file with a mistake is told before anything is drawn.
    """
    asked = inputs_of(task, AnswersInputs)
    experiment = asked.part
    if task.unit == COMMON:
        return common_answers(experiment, asked.common), None
    source, positive = experiment.dataset.answers, experiment.dataset.positive_answers
    directory, questions = context_of(task).directory, experiment.questions.training
    own = None if positive is None else read_answers(directory / positive, questions, None)
    if source == "base":
        return own_answers(experiment), own
    return read_answers(directory / source, questions, experiment.marker), own
