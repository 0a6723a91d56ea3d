"""The graded outcome: an adapter's cells read where answers end, many adapters in one pool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerproof.errors import ModelError, SteerproofError
from steerproof.model.base import Base
from steerproof.run.artefacts import answers
from steerproof.run.artefacts.cell import completions_of
from steerproof.run.artefacts.slots import to_files
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import COMMON, cell_unit
from steerproof.run.stages.base import base_of
from steerproof.run.stages.inputs import SlotCell, SlotsInputs, inputs_of
from steerproof.run.stages.upstream import Upstream, tried
from steerproof.study.geometry import asked_by
from steerproof.study.graded import GradedCell, grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all cells of a task are read on."""

    questions: tuple[str, ...]
    answers: Mapping[str, Sequence[str]]
    """By question."""


def slots(tasks: Sequence[Task]) -> Outcomes:
    """One unit per adapter: slots.parquet."""
    base = base_of(tasks[0])
    first = inputs_of(tasks[0], SlotsInputs)
    upstream = Upstream(base, first.seed)
    graded: dict[UnitId, list[GradedCell]] = {}
    for task, cells in tried(tasks, upstream, _cells):
        if isinstance(cells, Exception):
            yield task.unit, cells
        else:
            graded[task.unit] = cells
    yield from _graded(base, graded, first.marker)


def _graded(base: Base, graded: Mapping[UnitId, list[GradedCell]], marker: str) -> Outcomes:
    """Units read together; if that fails, each half by itself, down to the one that is at fault."""
    if not graded:
        return
    try:
        rows = grade(base, [one for cells in graded.values() for one in cells], marker)
    except SteerproofError as error:
        units = list(graded)
        if len(units) == 1:
            yield units[0], error
            return
        half = (len(units) + 1) // 2
        for part in (units[:half], units[half:]):
            yield from _graded(base, {unit: graded[unit] for unit in part}, marker)
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
    asked = inputs_of(task, SlotsInputs)
    shared = Shared(questions=asked.questions, answers=common)
    return [_cell(task, entry, upstream, shared) for entry in asked.cells]


def _cell(task: Task, entry: SlotCell, upstream: Upstream, shared: Shared) -> GradedCell:
    """One cell.

    Raises:
        ModelError: Its adapter was not trained; the base model must not stand in for it.
    """
    cell, adapter = entry.cell, upstream.adapter(task)
    if entry.trained and adapter is None:
        raise ModelError(f"the adapter {cell.adapter.name} is not there, so nothing can be read")
    measured = task.upstream.get(cell_unit(cell)) if entry.own else None
    return GradedCell(
        cell=cell,
        system=entry.system,
        questions=shared.questions,
        common=shared.answers if entry.common else {},
        own=() if measured is None else completions_of(measured),
        adapter=adapter,
        push=upstream.push(asked_by(cell)),
    )
