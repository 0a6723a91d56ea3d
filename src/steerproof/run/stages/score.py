"""From completions to marks and the rate table. No torch."""

from collections import Counter
from collections.abc import Iterator, Sequence

from steerproof.decide.analysis.rates import RateRow
from steerproof.run.artefacts import cell
from steerproof.run.artefacts.cell import CellRecord
from steerproof.run.artefacts.score import to_files
from steerproof.run.driver.worker import Files, Outcomes, Task, each
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.slices import partial_experiment
from steerproof.study.marks import Mark
from steerproof.study.readouts.marker import Rule, rule
from steerproof.study.readouts.marker import score as score_text


def score(tasks: Sequence[Task]) -> Outcomes:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed has no rows: it is missing, never zero.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    experiment = partial_experiment(task.inputs["experiment"])
    rule_ = rule(experiment.marker, experiment.scoring.near_marker)
    marks: dict[str, list[Mark]] = {}
    rates: list[RateRow] = []
    for unit in task.upstream.values():
        record = cell.record_of(unit)
        marks[record.cell.name] = marked = list(_marks(unit, rule_))
        rates += _rates(record, marked)
    return to_files(marks, rates)


def _marks(unit: StoredUnit, rule: Rule) -> Iterator[Mark]:
    for done in cell.completions_of(unit):
        said = score_text(done.text, done.token_ids, done.early_chars, rule)
        yield Mark(
            question=done.question,
            sample=done.sample,
            finish=done.finish,
            tokens=done.tokens,
            fired=said.fired,
            near=said.near,
            fired_early=said.fired_early,
            repetition=said.repetition,
        )


def _rates(record: CellRecord, marks: Sequence[Mark]) -> Iterator[RateRow]:
    total = Counter(mark.question for mark in marks)
    fired = Counter(mark.question for mark in marks if mark.fired)
    for question in sorted(total):
        yield RateRow(
            cell=record.cell,
            coefficient=record.coefficient,
            question=str(question),
            fired=fired[question],
            total=total[question],
        )
