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

    For graded cells: its own words to the evaluation questions.
    """

    def one(task: Task) -> Files:
        asked = inputs_of(task, AnswersInputs)
        experiment = asked.part
        if task.unit == COMMON:
            return to_files(common_answers(base_of(task), experiment, asked.common))
        source = experiment.dataset.answers
        if source == "base":
            return to_files(own_answers(base_of(task), experiment))
        path = context_of(task).directory / source
        return to_files(read_answers(path, experiment.questions.training, experiment.marker))

    yield from each(tasks, one)
