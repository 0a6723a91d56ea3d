"""From completions to marks and the rate table. No torch."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from steerproof.decide.analysis.rates import RateRow
from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.artefacts import cell, slots
from steerproof.run.artefacts.cell import CellRecord
from steerproof.run.artefacts.score import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.stages.inputs import ScoreInputs, context_of, inputs_of
from steerproof.run.store.manifest import DamagedError
from steerproof.spec.scoring import readout_file
from steerproof.study.marks import Mark
from steerproof.study.measured import Completion
from steerproof.study.rating import rate_rows
from steerproof.study.readouts import function, judge, log_probability
from steerproof.study.readouts.texts import TextReadout, text_readout


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A cell that can be read."""

    record: CellRecord
    completions: Sequence[Completion]


_Readout = Callable[[str], TextReadout]
"""The readout of a cell, by its name."""


def score(tasks: Sequence[Task]) -> Outcomes:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed, or whose files are as they were written and make no sense, has no rows: it
    is missing, never zero. The latter are named in `unread.json`.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    unread: dict[str, str] = {}
    found = _cells(task, unread)
    readout = _readout(task, found, unread)
    marks: dict[str, list[Mark]] = {}
    rates: list[RateRow] = []
    for name, one in found.items():
        if f"cell/{name}" in unread:
            continue
        read = readout(name)
        marked = marks[name] = [read(done) for done in one.completions]
        rates += rate_rows(one.record.cell, one.record.coefficient or 0.0, marked)
    if not marks:
        raise IntegrityError(f"no cell can be read: {'; '.join(unread.values())}")
    return to_files(marks, rates, unread)


def _cells(task: Task, unread: dict[str, str]) -> dict[str, _Read]:
    """The cells by name; why one cannot be read is added to `unread`."""
    found: dict[str, _Read] = {}
    for name, unit in task.upstream.items():
        if name.kind != "cell":
            continue
        try:
            record = cell.record_of(unit)
            found[record.cell.name] = _Read(record=record, completions=cell.completions_of(unit))
        except DamagedError:  # found and redone by the next run
            raise
        except IntegrityError as error:
            unread[str(name)] = str(error)
    return found


def _readout(task: Task, found: Mapping[str, _Read], unread: dict[str, str]) -> _Readout:
    """What marks the completions of each cell, with all that it needs besides their texts.

    Raises:
        ExperimentError: A file that it reads is not there, or not what it has to be.
    """
    experiment = inputs_of(task, ScoreInputs).part
    name = experiment.scoring.readout
    if name == "judge":
        judged = _judged(task, found)
        return lambda asked: judge.readout(experiment, asked, judged)
    if name == "function":
        says = _function(task)
        read = function.readout(experiment, says, experiment.questions.evaluation)
        return lambda _: read
    if name == "log_probability":
        weighed = _weighed(task)
        unread |= {f"cell/{n}": "its slots could not be read" for n in found if n not in weighed}
        return lambda asked: log_probability.readout(experiment, weighed[asked])
    read = text_readout(experiment)
    return lambda _: read


def _judged(task: Task, found: Mapping[str, _Read]) -> judge.Judgements:
    scoring = inputs_of(task, ScoreInputs).part.scoring
    name = scoring.judgements or ""
    if inputs_of(task, ScoreInputs).file is None:
        raise ExperimentError(
            f"all is measured, and scoring.judgements, {context_of(task).directory / name}, is not"
            " there yet: export the completions with `steerproof completions RUN --out FILE`, let"
            " them be judged, put the judgements there, and run again"
        )
    judged = judge.read_judgements(_file(task, name), name, scoring.least)
    ids = (judge.row_id(cell, done) for cell, one in found.items() for done in one.completions)
    judge.check_whole(judged, ids, name)
    return judged


def _function(task: Task) -> function.Says:
    scoring = inputs_of(task, ScoreInputs).part.scoring
    source = _file(task, readout_file(scoring) or "")
    return function.function_of(source, scoring.function or "")


def _file(task: Task, name: str) -> bytes:
    """The file that completions are marked by, as the unit's key has it.

    Raises:
        ExperimentError: It cannot be read, or is another one by now.
    """
    path = context_of(task).directory / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from error
    if sha256(content).hexdigest() != inputs_of(task, ScoreInputs).file:
        raise ExperimentError(f"{path} changed while the run was under way; run again")
    return content


def _weighed(task: Task) -> Mapping[str, log_probability.Weighed]:
    """What the model gave the marker at the end of each own completion, by cell."""
    found: defaultdict[str, dict[tuple[int, int], float | None]] = defaultdict(dict)
    for unit, stored in task.upstream.items():
        for row in slots.from_unit(stored) if unit.kind == "slots" else ():
            kind, _, sample = row.text.partition(".")
            if kind == "own":
                found[row.cell][row.question, int(sample)] = row.log_prob_marker
    return dict(found)
