"""Training: the tasks' adapters in one pool, each unit written as its adapter ends."""

from collections.abc import Mapping, Sequence
from functools import partial

from steerproof.engine.lora.peft_files import import_peft, write_peft
from steerproof.exchange.adapters import adapter_directory
from steerproof.model.base import Base
from steerproof.run.artefacts import dataset
from steerproof.run.artefacts.training import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.ids import UnitId
from steerproof.run.stages.base import base_of
from steerproof.run.stages.inputs import AdapterInputs, context_of, inputs_of
from steerproof.run.stages.upstream import Upstream, pooled, units_of
from steerproof.spec.grid import AdapterId
from steerproof.study.teach import Lesson, Taught, taken_over, teach


def adapter(tasks: Sequence[Task]) -> Outcomes:
    """One unit per (arm, persona): PEFT's two files and training.json."""
    base = base_of(tasks[0])
    given = [task for task in tasks if inputs_of(task, AdapterInputs).files]
    yield from each(given, lambda task: _taken_over(base, task))
    upstream = Upstream(base, inputs_of(tasks[0], AdapterInputs).part.drawing_seed)
    name = context_of(tasks[0]).name

    def study(lessons: Mapping[UnitId, Lesson]) -> Outcomes:
        units = {lesson.adapter: unit for unit, lesson in lessons.items()}
        told = tasks[0].teller
        for trained, taught in teach(base, list(lessons.values()), upstream.push, told):
            whole = isinstance(taught, Taught)
            yield units[trained], partial(_files, base, taught, name) if whole else taught

    yield from pooled([task for task in tasks if task not in given], upstream, _lesson, study)


def _lesson(task: Task, upstream: Upstream) -> Lesson:
    del upstream  # a lesson's pushes are made by whoever teaches it
    asked = inputs_of(task, AdapterInputs)
    (arm,), (rows,) = asked.part.arms, units_of(task, "dataset")
    return Lesson(
        adapter=AdapterId(arm=arm.name, persona=asked.persona, seed=asked.training_seed),
        experiment=asked.part,
        dataset=dataset.from_unit(rows),
    )


def _files(base: Base, taught: Taught, name: str) -> Files:
    return to_files(taught.record, write_peft(base, taught.weights, name))


def _taken_over(base: Base, task: Task) -> Files:
    """The files of an adapter that was trained elsewhere, checked and rewritten."""
    asked, context = inputs_of(task, AdapterInputs), context_of(task)
    (arm,) = asked.part.arms
    weights = import_peft(adapter_directory(arm, asked.persona, context.directory), base)
    return _files(base, taken_over(weights), context.name)
