"""Measurement: the tasks' cells in one pool, each unit written when its last row has ended."""

from collections.abc import Mapping, Sequence
from functools import partial

from steerproof.run.artefacts.cell import to_files
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.ids import UnitId
from steerproof.run.stages.base import base_of
from steerproof.run.stages.inputs import CellInputs, inputs_of
from steerproof.run.stages.upstream import Upstream, pooled
from steerproof.study.geometry import asked_by
from steerproof.study.measure import AskedCell, measure
from steerproof.study.measured import MeasuredCell


def cell(tasks: Sequence[Task]) -> Outcomes:
    """One unit per cell: completions.parquet, cell.json."""
    base = base_of(tasks[0])
    every = {task.unit: inputs_of(task, CellInputs) for task in tasks}
    first, teller = every[tasks[0].unit], tasks[0].teller
    # Cells of one adapter one after another: they are computed together.
    ordered = sorted(tasks, key=lambda task: _adapter_of(every[task.unit]))

    def study(cells: Mapping[UnitId, AskedCell]) -> Outcomes:
        units = {asked.cell: unit for unit, asked in cells.items()}
        for asked, outcome in measure(base, list(cells.values()), first.generation, teller):
            whole = isinstance(outcome, MeasuredCell)
            yield units[asked.cell], partial(to_files, outcome) if whole else outcome

    yield from pooled(ordered, Upstream(base, first.drawing_seed), _asked, study)


def _adapter_of(asked: CellInputs) -> tuple[str, str]:
    return asked.cell.arm, asked.cell.persona


def _asked(task: Task, upstream: Upstream) -> AskedCell:
    asked = inputs_of(task, CellInputs)
    return AskedCell(
        cell=asked.cell,
        system=asked.system,
        questions=asked.questions,
        samples=asked.generation.samples,
        seed=asked.seed,
        early_tokens=asked.early_tokens,
        adapter=upstream.adapter(task),
        push=upstream.push(asked_by(asked.cell)),
    )
