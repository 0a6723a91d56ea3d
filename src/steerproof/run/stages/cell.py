"""Measurement: the tasks' cells in one pool, each unit written when its last row has ended."""

from collections.abc import Sequence

from steerproof.run.artefacts.cell import to_files
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.ids import UnitId
from steerproof.run.stages.base import base_of
from steerproof.run.stages.upstream import Upstream, tried
from steerproof.spec.experiment import Generation
from steerproof.spec.grid import Cell
from steerproof.study.geometry import asked_by
from steerproof.study.measure import AskedCell, measure
from steerproof.study.measured import MeasuredCell


def cell(tasks: Sequence[Task]) -> Outcomes:
    """One unit per cell: completions.parquet, cell.json."""
    base = base_of(tasks[0])
    upstream = Upstream(base, tasks[0].inputs["seed"])
    # Cells of one adapter one after another: they are computed together.
    ordered = sorted(
        tasks, key=lambda task: (task.inputs["cell"]["arm"], task.inputs["cell"]["persona"])
    )
    units: dict[Cell, UnitId] = {}
    cells: list[AskedCell] = []
    for task, asked in tried(ordered, upstream, _asked):
        if isinstance(asked, Exception):
            yield task.unit, asked
        else:
            units[asked.cell] = task.unit
            cells.append(asked)
    settings = Generation(**tasks[0].inputs["generation"])
    for asked, outcome in measure(base, cells, settings):
        files = to_files(outcome) if isinstance(outcome, MeasuredCell) else outcome
        yield units[asked.cell], files


def _asked(task: Task, upstream: Upstream) -> AskedCell:
    upstream.directions(task)
    cell = Cell.from_record(task.inputs["cell"])
    return AskedCell(
        cell=cell,
        system=task.inputs["system"],
        questions=tuple(task.inputs["questions"]),
        samples=task.inputs["generation"]["samples"],
        seed=task.inputs["seed"],
        early_tokens=task.inputs["early_tokens"],
        adapter=upstream.adapter(task),
        push=upstream.push(asked_by(cell)),
    )
