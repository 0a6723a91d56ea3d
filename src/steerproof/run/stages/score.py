"""From completions to marks and the rate table. No torch."""

from collections.abc import Sequence

from steerproof.decide.analysis.rates import RateRow
from steerproof.errors import IntegrityError
from steerproof.run.artefacts import cell
from steerproof.run.artefacts.score import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.inputs import Sliced, inputs_of
from steerproof.run.store.manifest import DamagedError
from steerproof.study.marks import Mark
from steerproof.study.rating import rate_rows
from steerproof.study.readouts.texts import text_readout


def score(tasks: Sequence[Task]) -> Outcomes:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed, or whose files are as they were written and make no sense, has no rows: it
    is missing, never zero. The latter are named in `unread.json`.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    read = text_readout(inputs_of(task, Sliced).part)
    marks: dict[str, list[Mark]] = {}
    rates: list[RateRow] = []
    unread: dict[str, str] = {}
    for name, unit in task.upstream.items():
        try:
            record, completions = cell.record_of(unit), cell.completions_of(unit)
        except DamagedError:  # found and redone by the next run
            raise
        except IntegrityError as error:
            unread[str(name)] = str(error)
            continue
        marked = marks[record.cell.name] = [read(done) for done in completions]
        rates += rate_rows(record.cell, record.coefficient or 0.0, marked)
    if not marks:
        raise IntegrityError(f"no cell can be read: {'; '.join(unread.values())}")
    return to_files(marks, rates, unread)
