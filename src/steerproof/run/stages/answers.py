"""The answers of the training rows, before any marker is added."""

from collections.abc import Sequence
from pathlib import Path

from steerproof.run.artefacts.answers import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.base import base_of
from steerproof.run.stages.given import read_answers
from steerproof.spec.slices import partial_experiment
from steerproof.study.answers import own_answers


def answers(tasks: Sequence[Task]) -> Outcomes:
    """What the training rows answer: the user's JSON lines, or the base model's own words."""

    def one(task: Task) -> Files:
        experiment = partial_experiment(task.inputs["experiment"])
        source = experiment.dataset.answers
        if source == "base":
            return to_files(own_answers(base_of(task), experiment))
        path = Path(task.context["directory"]) / source
        return to_files(read_answers(path, experiment.questions.training, experiment.marker))

    yield from each(tasks, one)
