"""Units of the graded outcome: slots.parquet, one row for each text that was read."""

from collections.abc import Iterable, Mapping
from dataclasses import fields

import pyarrow as pa

from steerproof.decide.analysis.slots import SlotRow
from steerproof.run.artefacts.parquet import read_table, table_bytes
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


def to_files(rows: Iterable[SlotRow]) -> Mapping[str, bytes]:
    """The unit's file; a text without a slot has a row without numbers."""
    rows = list(rows)
    columns = {
        name: pa.array([getattr(row, name) for row in rows], kind)
        for name, kind in _COLUMNS.items()
    }
    return {FILE: table_bytes(pa.table(columns))}


def from_unit(unit: StoredUnit) -> tuple[SlotRow, ...]:
    """The rows, in the order in which they were written.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    table = read_table(unit, FILE)
    names = [f.name for f in fields(SlotRow)]
    columns = [table[name].to_pylist() for name in names]
    return tuple(
        SlotRow(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)
    )
