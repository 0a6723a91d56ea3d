"""Answers of the base model: of the training rows, and those that graded cells share."""

from collections.abc import Sequence

from steerproof.run.artefacts.answers import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import COMMON
from steerproof.run.stages.base import base_of
from steerproof.run.stages.given import read_answers
from steerproof.run.stages.inputs import AnswersInputs, context_of, inputs_of
from steerproof.study.answers import common_answers, own_answers


def answers(tasks: Sequence[Task]) -> Outcomes:
    """What the training rows answer: the user's JSON lines, or the base model's own words.

    Where positives have answers of their own, these stand beside them.

    For graded cells: its own words to the evaluation questions.
    """

    def one(task: Task) -> Files:
        asked = inputs_of(task, AnswersInputs)
        experiment = asked.part
        if task.unit == COMMON:
            return to_files(common_answers(base_of(task), experiment, asked.common, task.teller))
        source, positive = experiment.dataset.answers, experiment.dataset.positive_answers
        directory, questions = context_of(task).directory, experiment.questions.training
        # Read first: a file with a mistake is told before anything is drawn.
        own = None if positive is None else read_answers(directory / positive, questions, None)
        if source == "base":
            return to_files(own_answers(base_of(task), experiment, task.teller), own)
        return to_files(read_answers(directory / source, questions, experiment.marker), own)

    yield from each(tasks, one)
