"""Units of the graded outcome: slots.parquet, one row for each text that was read."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import cast, get_args

import pyarrow as pa

from steerproof.decide.analysis.slots import SlotRow, TextKind
from steerproof.errors import IntegrityError
from steerproof.run.artefacts.parquet import UNFIT, in_columns, read_table, table_bytes
from steerproof.run.store.manifest import StoredUnit

FILE = "slots.parquet"
_COLUMNS = {
    "cell": pa.string(),
    "question": pa.int32(),
    "text": pa.string(),
    "z_marker": pa.float32(),
    "z_end": pa.float32(),
    "log_z": pa.float32(),
    "log_prob_marker": pa.float32(),
}
_NUMBERS = tuple(name for name, kind in _COLUMNS.items() if kind == pa.float32())


def to_files(rows: Iterable[SlotRow]) -> Mapping[str, bytes]:
    """The unit's file; a text without a slot has a row without numbers."""
    lines = [{**asdict(row), "text": f"{row.text}.{row.number}"} for row in rows]
    columns = {
        name: pa.array([line[name] for line in lines], kind) for name, kind in _COLUMNS.items()
    }
    return {FILE: table_bytes(pa.table(columns))}


def from_unit(unit: StoredUnit) -> tuple[SlotRow, ...]:
    """The rows, in the order in which they were written.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    table = read_table(unit, FILE)
    try:
        return rows_of(table)
    except UNFIT as error:
        raise IntegrityError(f"{unit.directory / FILE} holds no slots: {error}") from error


def rows_of(table: pa.Table) -> tuple[SlotRow, ...]:
    """The rows of such a table; `common.0` and `own.3` stand for a kind of text and its number.

    Raises:
        KeyError: A column is missing.
        ValueError: A text is of no kind, or a value is missing that is no number of a slot.
        pa.ArrowException: A column is of another type.
    """
    rows = in_columns(table, _COLUMNS, may_lack=_NUMBERS)
    columns = (rows[name].to_pylist() for name in _COLUMNS)
    return tuple(_row(*line) for line in zip(*columns, strict=True))


def _row(cell: str, question: int, text: str, *numbers: float | None) -> SlotRow:
    kind, _, number = text.partition(".")
    if kind not in get_args(TextKind):
        raise ValueError(f"{text[:40]!r} is no text of a cell")
    named = dict(zip(_NUMBERS, numbers, strict=True))
    return SlotRow(
        cell=cell, question=question, text=cast(TextKind, kind), number=int(number), **named
    )
