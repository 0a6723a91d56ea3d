"""The training rows of each persona."""

from collections.abc import Iterator, Sequence

from steerproof.run.driver.worker import Files, Task, each
from steerproof.run.stages.files import read_json, to_json
from steerproof.spec.slices import partial_experiment
from steerproof.study.dataset import build_dataset


def dataset(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
    """One unit per persona: dataset.json."""

    def one(task: Task) -> Files:
        experiment = partial_experiment(task.inputs["experiment"])
        given = read_json(task.upstream["answers/base"], "answers.json")["answers"]
        built = build_dataset(experiment, task.inputs["persona"], given)
        return {"dataset.json": to_json(built.to_json())}

    yield from each(tasks, one)
