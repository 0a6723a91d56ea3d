"""From completions to marks and the rate table. No torch."""

from collections.abc import Sequence

from steerproof.decide.analysis.rates import RateRow
from steerproof.run.artefacts import cell
from steerproof.run.artefacts.score import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.inputs import Sliced, inputs_of
from steerproof.study.marks import Mark
from steerproof.study.rating import rate_rows
from steerproof.study.readouts.texts import text_readout


def score(tasks: Sequence[Task]) -> Outcomes:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed has no rows: it is missing, never zero.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    read = text_readout(inputs_of(task, Sliced).part)
    marks: dict[str, list[Mark]] = {}
    rates: list[RateRow] = []
    for unit in task.upstream.values():
        record = cell.record_of(unit)
        marked = marks[record.cell.name] = [read(done) for done in cell.completions_of(unit)]
        rates += rate_rows(record.cell, record.coefficient or 0.0, marked)
    return to_files(marks, rates)
