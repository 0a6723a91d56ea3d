"""From completions to marks and the rate table. No torch."""

from collections.abc import Mapping, Sequence
from itertools import chain

from steerproof.errors import IntegrityError
from steerproof.run.artefacts import cell, slots
from steerproof.run.artefacts.score import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.graph.ids import UnitId
from steerproof.run.stages.inputs import ScoreInputs, context_of, inputs_of
from steerproof.run.store.files import read_as_hashed
from steerproof.study.measured import MeasuredCell
from steerproof.study.rating import scored
from steerproof.study.readouts.load import readout_of
from steerproof.study.readouts.readable import Readable, weighed_in


def score(tasks: Sequence[Task]) -> Outcomes:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed, or whose files are as they were written and make no sense, has no rows: it
    is missing, never zero. The latter are named in `unread.json`.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    cells, unread = cell.readable(task.upstream)
    marked = scored(cells, readout_of(_readable(task, cells)), task.teller)
    unread |= {str(UnitId("cell", name)): why for name, why in marked.unread.items()}
    if not marked.marks:
        raise IntegrityError(f"no cell can be read: {'; '.join(unread.values())}")
    return to_files(marked.marks, marked.rates, unread)


def _readable(task: Task, cells: Mapping[str, MeasuredCell]) -> Readable:
    asked = inputs_of(task, ScoreInputs)
    read = (slots.from_unit(s) for unit, s in task.upstream.items() if unit.kind == "slots")
    rows = chain.from_iterable(read)
    path = context_of(task).directory / (asked.part.scoring.file or "")
    return Readable(
        experiment=asked.part,
        completions={name: measured.completions for name, measured in cells.items()},
        weighed=weighed_in(rows),
        path=path,
        file=None if asked.file is None else read_as_hashed(path, asked.file),
    )
