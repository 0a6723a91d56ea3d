"""From completions to marks and the rate table. No torch."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from steerproof.decide.analysis.rates import RateRow
from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.artefacts import cell, slots
from steerproof.run.artefacts.score import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.inputs import ScoreInputs, context_of, inputs_of
from steerproof.run.store.manifest import DamagedError
from steerproof.study.marks import Mark
from steerproof.study.measured import MeasuredCell
from steerproof.study.rating import rate_rows
from steerproof.study.readouts.load import readout_of
from steerproof.study.readouts.readable import Readable, Weighed


def score(tasks: Sequence[Task]) -> Outcomes:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed, or whose files are as they were written and make no sense, has no rows: it
    is missing, never zero. The latter are named in `unread.json`.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    cells, unread = _cells(task)
    readout = readout_of(_given(task, cells))
    marks: dict[str, list[Mark]] = {}
    rates: list[RateRow] = []
    for number, (name, measured) in enumerate(cells.items()):
        task.teller.at(number, len(cells), "cells")
        try:
            read = readout(name)
        except IntegrityError as error:
            unread[f"cell/{name}"] = str(error)
            continue
        marks[name] = [read(done) for done in measured.completions]
        rates += rate_rows(measured.cell, measured.coefficient or 0.0, marks[name])
    if not marks:
        raise IntegrityError(f"no cell can be read: {'; '.join(unread.values())}")
    return to_files(marks, rates, unread)


def _cells(task: Task) -> tuple[dict[str, MeasuredCell], dict[str, str]]:
    """The cells by name; by unit, why one cannot be read."""
    cells: dict[str, MeasuredCell] = {}
    unread: dict[str, str] = {}
    for unit, stored in task.upstream.items():
        if unit.kind != "cell":
            continue
        try:
            measured = cell.from_unit(stored)
            if measured.cell.name != unit.name:
                raise IntegrityError(f"{cell.FILE} is of {measured.cell.name}")
            cells[unit.name] = measured
        except DamagedError:  # found and redone by the next run
            raise
        except IntegrityError as error:
            # Where the run directory lies is no part of what was found in it.
            unread[str(unit)] = str(error).replace(f"{stored.directory}/", "")
    return cells, unread


def _given(task: Task, cells: Mapping[str, MeasuredCell]) -> Readable:
    asked = inputs_of(task, ScoreInputs)
    path = context_of(task).directory / (asked.part.scoring.file or "")
    return Readable(
        experiment=asked.part,
        completions={name: measured.completions for name, measured in cells.items()},
        weighed=_weighed(task),
        path=path,
        file=None if asked.file is None else _unchanged(path, asked.file),
    )


def _weighed(task: Task) -> Mapping[str, Weighed]:
    """What the model gave the marker at the end of each own completion, by cell."""
    weighed: defaultdict[str, dict[tuple[int, int], float | None]] = defaultdict(dict)
    for unit, stored in task.upstream.items():
        for row in slots.from_unit(stored) if unit.kind == "slots" else ():
            if row.text == "own":
                weighed[row.cell][row.question, row.number] = row.log_prob_marker
    return weighed


def _unchanged(path: Path, known: str) -> bytes:
    """A file as the unit's key has it.

    Raises:
        ExperimentError: It cannot be read, or is another one by now.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from error
    if sha256(content).hexdigest() != known:
        raise ExperimentError(f"{path} changed while the run was under way; run again")
    return content
