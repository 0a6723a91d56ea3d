"""The graded outcome: an adapter's cells read where answers end, many adapters in one pool."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerproof.engine.lora.pool import LoraWeights
from steerproof.errors import ModelError, SteerproofError
from steerproof.run.artefacts import answers, cell
from steerproof.run.artefacts.slots import to_files
from steerproof.run.driver.worker import Files, Task
from steerproof.run.stages.base import base_of
from steerproof.run.stages.upstream import Upstream, tried
from steerproof.spec.grid import Cell
from steerproof.study.geometry import asked_by
from steerproof.study.graded import GradedCell, grade


def slots(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
    """One unit per adapter: slots.parquet."""
    base = base_of(tasks[0])
    upstream = Upstream(base, tasks[0].inputs["seed"])
    wanted: dict[str, list[GradedCell]] = {}
    for task, cells in tried(tasks, upstream, _wanted):
        if isinstance(cells, Exception):
            yield task.unit, cells
        else:
            wanted[task.unit] = cells
    try:
        found = grade(base, [one for cells in wanted.values() for one in cells], _marker(tasks))
    except SteerproofError as error:
        yield from ((unit, error) for unit in wanted)
        return
    for unit, cells in wanted.items():
        yield unit, to_files(row for one in cells for row in found[one.cell])


def _marker(tasks: Sequence[Task]) -> str:
    return tasks[0].inputs["marker"]


def _wanted(task: Task, upstream: Upstream) -> list[GradedCell]:
    """The cells of a task with their texts; a cell that was not measured has none of its own.

    Raises:
        ModelError: Its adapter, or the common answers, could not be made.
    """
    name = task.inputs["adapter"]
    for read in ("answers/common", *([f"adapter/{name}"] if name else [])):
        if read not in task.upstream:
            raise ModelError(f"{read} is not there, so nothing can be read of {task.unit}")
    upstream.directions(task)
    adapter = upstream.adapter(task)
    common = answers.from_unit(task.upstream["answers/common"]).answers
    return [_cell(task, entry, upstream, adapter, common) for entry in task.inputs["cells"]]


def _cell(
    task: Task,
    entry: Mapping[str, Any],
    upstream: Upstream,
    adapter: LoraWeights | None,
    common: Mapping[str, Sequence[str]],
) -> GradedCell:
    asked = Cell.from_record(entry["cell"])
    unit = task.upstream.get(f"cell/{asked.name}") if entry["own"] else None
    return GradedCell(
        cell=asked,
        system=entry["system"],
        questions=tuple(task.inputs["questions"]),
        common=common if entry["common"] else {},
        own=() if unit is None else cell.completions_of(unit),
        adapter=adapter,
        push=upstream.push(asked_by(asked)),
    )
