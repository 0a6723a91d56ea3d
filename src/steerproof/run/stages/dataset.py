"""The training rows of each persona."""

from collections.abc import Sequence

from steerproof.run.artefacts import answers
from steerproof.run.artefacts.dataset import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.names import ANSWERS
from steerproof.spec.slices import partial_experiment
from steerproof.study.dataset import build_dataset


def dataset(tasks: Sequence[Task]) -> Outcomes:
    """One unit per persona: dataset.json."""

    def one(task: Task) -> Files:
        experiment = partial_experiment(task.inputs["experiment"])
        given = answers.from_unit(task.upstream[ANSWERS]).answers
        return to_files(build_dataset(experiment, task.inputs["persona"], given))

    yield from each(tasks, one)
