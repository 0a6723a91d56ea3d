"""The slots of all adapters as one table. No torch."""

from collections.abc import Sequence

from steerproof.run.artefacts.slots import from_unit, to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each


def graded(tasks: Sequence[Task]) -> Outcomes:
    """One unit: slots.parquet of every adapter whose slots were read."""
    yield from each(tasks, _gathered)


def _gathered(task: Task) -> Files:
    units = (stored for unit, stored in task.upstream.items() if unit.kind == "slots")
    return to_files(row for stored in units for row in from_unit(stored))
