"""From completions to marks and the rate table. No torch."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from steerproof.decide.analysis.rates import RateRow
from steerproof.decide.analysis.rates_csv import format_rates
from steerproof.run.driver.worker import Files, Task, each
from steerproof.run.stages.files import read_json, read_table, table_bytes
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.grid import Cell
from steerproof.spec.slices import partial_experiment
from steerproof.study.readouts.marker import Rule, rule
from steerproof.study.readouts.marker import score as score_text


def score(tasks: Sequence[Task]) -> Iterator[tuple[str, Files | Exception]]:
    """Mark every completion of every cell that succeeded: scores.parquet and rates.csv.

    A cell that failed has no rows: it is missing, never zero.
    """
    yield from each(tasks, _score)


def _score(task: Task) -> Files:
    experiment = partial_experiment(task.inputs["experiment"])
    marks = rule(experiment.marker, experiment.scoring.near_marker)
    tables: list[pa.Table] = []
    rows: list[RateRow] = []
    for unit in task.upstream.values():
        record = read_json(unit, "cell.json")
        cell = Cell.from_record(record["cell"])
        marked = _mark(unit, marks, cell)
        tables.append(marked)
        rows += _rates(cell, record["coefficient"], marked)
    return {
        "scores.parquet": table_bytes(pa.concat_tables(tables)),
        "rates.csv": format_rates(rows).encode(),
    }


def _mark(unit: StoredUnit, marks: Rule, cell: Cell) -> pa.Table:
    table = read_table(unit, "completions.parquet")
    texts = zip(
        table["text"].to_pylist(),
        table["token_ids"].to_pylist(),
        table["early_chars"].to_pylist(),
        strict=True,
    )
    scores = [score_text(text, ids, early, marks) for text, ids, early in texts]
    return pa.table(
        {
            "cell": pa.array([cell.name] * len(scores), pa.string()),
            **{name: table[name] for name in ("question", "sample", "finish", "tokens")},
            "fired": pa.array([one.fired for one in scores], pa.bool_()),
            "near": pa.array([one.near for one in scores], pa.bool_()),
            "fired_early": pa.array([one.fired_early for one in scores], pa.bool_()),
            "repetition": pa.array([one.repetition for one in scores], pa.float32()),
        }
    )


def _rates(cell: Cell, number: float, marked: pa.Table) -> list[RateRow]:
    fired: dict[int, int] = {}
    total: dict[int, int] = {}
    hits = zip(marked["question"].to_pylist(), marked["fired"].to_pylist(), strict=True)
    for question, hit in hits:
        fired[question] = fired.get(question, 0) + hit
        total[question] = total.get(question, 0) + 1
    return [
        RateRow(cell=cell, coefficient=number, question=str(q), fired=fired[q], total=total[q])
        for q in sorted(total)
    ]
