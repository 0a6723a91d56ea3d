"""Values as Arrow tables: `.to_pandas()` gives a data frame, `.to_pylist()` plain rows."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import pyarrow as pa

from steerproof.decide.analysis.rates import RateRow, RateTable
from steerproof.study.measured import Completion

_CELL = ("of", "prompt_of", "draw", "tokens", "operation", "seed")
"""Fields of a cell that are columns only where they are used."""


def rate_table(rows: Iterable[RateRow]) -> pa.Table:
    """The rate table, with the columns of `rates.csv`."""
    known = list(rows)
    records = [row.cell.record() for row in known]
    columns = {
        name: pa.array([record[name] for record in records], pa.string())
        for name in ("arm", "persona", "prompt", "direction")
    }
    used = [name for name in _CELL if any(name in record for record in records)]
    return pa.table(
        {
            **columns,
            "layer": pa.array([record["layer"] for record in records], pa.int32()),
            "strength": pa.array([record["strength"] for record in records], pa.string()),
            **{name: pa.array([record.get(name) for record in records]) for name in used},
            "coefficient": pa.array([row.coefficient for row in known], pa.float64()),
            "question": pa.array([row.question for row in known], pa.string()),
            "fired": pa.array([row.fired for row in known], pa.int64()),
            "total": pa.array([row.total for row in known], pa.int64()),
        }
    )


def rows_of(table: RateTable) -> Iterable[RateRow]:
    """The rows that a rate table was made of."""
    for cell, counts in table.cells.items():
        questions: Sequence[str | None] = counts.questions or (None,)
        for question, fired, total in zip(questions, counts.fired, counts.total, strict=True):
            yield RateRow(
                cell=cell,
                coefficient=counts.coefficient,
                question=question,
                fired=fired,
                total=total,
            )


def completion_table(completions: Sequence[Completion]) -> pa.Table:
    """Completions, a row each."""
    names = [part.name for part in fields(Completion)]
    columns = {
        name: pa.array([_plain(getattr(done, name)) for done in completions]) for name in names
    }
    return pa.table({**columns, "tokens": pa.array([done.tokens for done in completions])})


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
