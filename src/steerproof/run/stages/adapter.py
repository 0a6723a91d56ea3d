"""Training: the tasks' adapters in one pool, each unit written as its adapter ends."""

from collections.abc import Sequence
from dataclasses import asdict

from steerproof.engine.lora.peft_files import import_peft, write_peft
from steerproof.engine.lora.weights import LoraWeights
from steerproof.exchange.adapters import adapter_directory
from steerproof.model.base import Base
from steerproof.run.artefacts import dataset
from steerproof.run.artefacts.training import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.base import base_of
from steerproof.run.stages.inputs import AdapterInputs, context_of, inputs_of
from steerproof.run.stages.upstream import Upstream, tried, units_of
from steerproof.spec.grid import Adapter
from steerproof.study.teach import Lesson, Taught, teach
from steerproof.study.trained import TrainingRecord


def adapter(tasks: Sequence[Task]) -> Outcomes:
    """One unit per (arm, persona): PEFT's two files and training.json."""
    base = base_of(tasks[0])
    given = [task for task in tasks if inputs_of(task, AdapterInputs).files]
    yield from each(given, lambda task: _taken_over(base, task))
    upstream = Upstream(base, inputs_of(tasks[0], AdapterInputs).part.seed)
    units: dict[Adapter, Task] = {}
    lessons: list[Lesson] = []
    for task, lesson in tried([task for task in tasks if task not in given], upstream, _lesson):
        if isinstance(lesson, Exception):
            yield task.unit, lesson
        else:
            units[lesson.adapter] = task
            lessons.append(lesson)
    for trained, taught in teach(base, lessons, upstream.push):
        task = units[trained]
        yield task.unit, _files(base, task, taught) if isinstance(taught, Taught) else taught


def _lesson(task: Task, upstream: Upstream) -> Lesson:
    upstream.directions(task)
    asked = inputs_of(task, AdapterInputs)
    experiment = asked.part
    (rows,) = units_of(task, "dataset")
    return Lesson(
        adapter=Adapter(
            arm=experiment.arms[0].name,
            persona=asked.persona,
            seed=asked.training_seed,
        ),
        experiment=experiment,
        dataset=dataset.from_unit(rows),
    )


def _files(base: Base, task: Task, taught: Taught) -> Files:
    return to_files(taught.record, write_peft(base, taught.weights, context_of(task).name))


def _taken_over(base: Base, task: Task) -> Files:
    """The files of an adapter that was trained elsewhere, checked and rewritten."""
    asked, place = inputs_of(task, AdapterInputs), context_of(task).directory
    (arm,) = asked.part.arms
    weights: LoraWeights = import_peft(adapter_directory(arm, asked.persona, place), base)
    record = TrainingRecord(losses=(), imported=asdict(weights.spec))
    return _files(base, task, Taught(weights=weights, record=record))
