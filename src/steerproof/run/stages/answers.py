"""Answers of the base model: of the training rows, and those that graded cells share."""

from collections.abc import Sequence
from pathlib import Path

from steerproof.run.artefacts.answers import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import COMMON
from steerproof.run.stages.base import base_of
from steerproof.run.stages.given import read_answers
from steerproof.spec.slices import partial_experiment
from steerproof.study.answers import common_answers, own_answers


def answers(tasks: Sequence[Task]) -> Outcomes:
    """What the training rows answer: the user's JSON lines, or the base model's own words.

    For graded cells: its own words to the evaluation questions.
    """

    def one(task: Task) -> Files:
        experiment = partial_experiment(task.inputs["experiment"])
        if task.unit == COMMON:
            return to_files(common_answers(base_of(task), experiment, task.inputs["common"]))
        source = experiment.dataset.answers
        if source == "base":
            return to_files(own_answers(base_of(task), experiment))
        path = Path(task.context["directory"]) / source
        return to_files(read_answers(path, experiment.questions.training, experiment.marker))

    yield from each(tasks, one)
