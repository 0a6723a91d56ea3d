"""The slots of all adapters as one table. No torch."""

from collections.abc import Iterator, Sequence

from steerproof.run.artefacts.slots import from_unit, to_files
from steerproof.run.driver.worker import Files, Task, each


def graded(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
    """One unit: slots.parquet of every adapter whose slots were read."""
    yield from each(tasks, _gathered)


def _gathered(task: Task) -> Files:
    units = (unit for name, unit in task.upstream.items() if name.startswith("slots/"))
    return to_files(row for unit in units for row in from_unit(unit))
