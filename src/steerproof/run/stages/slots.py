"""The graded outcome: an adapter's cells read where answers end, many adapters in one pool."""

from collections.abc import Mapping, Sequence
from typing import Any

from steerproof.errors import ModelError, SteerproofError
from steerproof.run.artefacts import answers
from steerproof.run.artefacts.cell import completions_of
from steerproof.run.artefacts.slots import to_files
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import COMMON, cell_unit
from steerproof.run.stages.base import base_of
from steerproof.run.stages.upstream import Upstream, tried
from steerproof.spec.grid import Cell
from steerproof.study.geometry import asked_by
from steerproof.study.graded import GradedCell, grade


def slots(tasks: Sequence[Task]) -> Outcomes:
    """One unit per adapter: slots.parquet."""
    base = base_of(tasks[0])
    upstream = Upstream(base, tasks[0].inputs["seed"])
    graded: dict[UnitId, list[GradedCell]] = {}
    for task, cells in tried(tasks, upstream, _cells):
        if isinstance(cells, Exception):
            yield task.unit, cells
        else:
            graded[task.unit] = cells
    try:
        every = [one for cells in graded.values() for one in cells]
        rows = grade(base, every, tasks[0].inputs["marker"])
    except SteerproofError as error:
        yield from ((unit, error) for unit in graded)
        return
    for unit, cells in graded.items():
        yield unit, to_files(row for one in cells for row in rows[one.cell])


def _cells(task: Task, upstream: Upstream) -> list[GradedCell]:
    """The cells of a task with their texts; a cell that failed has no texts of its own.

    Raises:
        ModelError: The common answers are not there.
    """
    if COMMON not in task.upstream:
        raise ModelError(f"{COMMON} failed, so there is no text that all cells share")
    upstream.directions(task)
    common = answers.from_unit(task.upstream[COMMON]).answers
    return [_cell(task, entry, upstream, common) for entry in task.inputs["cells"]]


def _cell(
    task: Task, entry: Mapping[str, Any], upstream: Upstream, common: Mapping[str, Sequence[str]]
) -> GradedCell:
    """One cell.

    Raises:
        ModelError: Its adapter was not trained; the base model must not stand in for it.
    """
    cell, adapter = Cell.from_record(entry["cell"]), upstream.adapter(task)
    if entry["trained"] and adapter is None:
        raise ModelError(f"the adapter {cell.adapter.name} is not there, so nothing can be read")
    measured = task.upstream.get(cell_unit(cell)) if entry["own"] else None
    return GradedCell(
        cell=cell,
        system=entry["system"],
        questions=tuple(task.inputs["questions"]),
        common=common if entry["common"] else {},
        own=() if measured is None else completions_of(measured),
        adapter=adapter,
        push=upstream.push(asked_by(cell)),
    )
