"""The graded outcome: an adapter's cells read where answers end, many adapters in one pool."""

from collections.abc import Mapping, Sequence
from functools import partial

from steerproof.errors import ModelError
from steerproof.run.artefacts import answers
from steerproof.run.artefacts.cell import completions_of
from steerproof.run.artefacts.slots import to_files
from steerproof.run.driver.worker import Outcomes, Task
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import COMMON, cell_unit
from steerproof.run.stages.base import base_of
from steerproof.run.stages.inputs import SlotsInputs, inputs_of
from steerproof.run.stages.upstream import Upstream, pooled
from steerproof.study.geometry import asked_by
from steerproof.study.graded import GradedCell, grade_apart


def slots(tasks: Sequence[Task]) -> Outcomes:
    """One unit per adapter: slots.parquet."""
    base = base_of(tasks[0])
    first, teller = inputs_of(tasks[0], SlotsInputs), tasks[0].teller

    def study(cells: Mapping[UnitId, list[GradedCell]]) -> Outcomes:
        for unit, rows in grade_apart(base, cells, first.marker, teller):
            yield unit, rows if isinstance(rows, Exception) else partial(to_files, rows)

    yield from pooled(tasks, Upstream(base, first.drawing_seed), _cells, study)


def _cells(task: Task, upstream: Upstream) -> list[GradedCell]:
    """The cells of a task with their texts; a cell that failed has no texts of its own.

    Raises:
        ModelError: The common answers are not there, or an adapter was not trained; the base model
            must not stand in for it.
    """
    if COMMON not in task.upstream:
        raise ModelError(f"{COMMON} failed, so there is no text that all cells share")
    common = answers.from_unit(task.upstream[COMMON]).answers
    asked, adapter = inputs_of(task, SlotsInputs), upstream.adapter(task)
    trained = next((entry.cell.adapter.name for entry in asked.cells if entry.trained), None)
    if trained is not None and adapter is None:
        raise ModelError(f"the adapter {trained} is not there, so nothing can be read")
    measured = {unit: stored for unit, stored in task.upstream.items() if unit.kind == "cell"}
    own = {unit: completions_of(stored) for unit, stored in measured.items()}
    return [
        GradedCell(
            cell=entry.cell,
            system=entry.system,
            questions=asked.questions,
            common=common if entry.common else {},
            own=own.get(cell_unit(entry.cell), ()) if entry.own else (),
            adapter=adapter,
            push=upstream.push(asked_by(entry.cell)),
        )
        for entry in asked.cells
    ]
