"""The training rows of each persona."""

from collections.abc import Sequence

from steerproof.run.artefacts import answers
from steerproof.run.artefacts.dataset import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import ANSWERS
from steerproof.run.stages.inputs import DatasetInputs, inputs_of
from steerproof.study.dataset import build_dataset


def dataset(tasks: Sequence[Task]) -> Outcomes:
    """One unit per persona: dataset.json."""

    def one(task: Task) -> Files:
        asked = inputs_of(task, DatasetInputs)
        unit = task.upstream[ANSWERS]
        given, positive = answers.from_unit(unit).answers, answers.positive_of(unit)
        own = None if positive is None else positive.answers
        return to_files(build_dataset(asked.part, asked.persona, given, own))

    yield from each(tasks, one)
