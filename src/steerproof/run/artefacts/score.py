"""A score unit: scores.parquet has the marks of every completion, rates.csv the rate table."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from steerproof.codec import json_bytes, read_record
from steerproof.decide.analysis.rates import RateRow, RateTable
from steerproof.decide.analysis.rates_csv import format_rates, read_rates
from steerproof.errors import IntegrityError
from steerproof.run.artefacts.parquet import UNFIT, in_columns, read_table, table_bytes
from steerproof.run.store.manifest import StoredUnit
from steerproof.spec.experiment import Experiment
from steerproof.study.marks import Mark

FILE, RATES, UNREAD = "scores.parquet", "rates.csv", "unread.json"
Marks = Mapping[str, Sequence[Mark]]
"""By cell name, in order of question and sample; a cell that failed is not there."""
_COLUMNS = {
    "question": pa.int32(),
    "sample": pa.int32(),
    "finish": pa.string(),
    "tokens": pa.int32(),
    "fired": pa.bool_(),
    "near": pa.bool_(),
    "fired_early": pa.bool_(),
    "repetition": pa.float32(),
}
_MAY_LACK = ("fired_early", "repetition", "value")


def to_files(
    marks: Marks, rates: Iterable[RateRow], unread: Mapping[str, str] | None = None
) -> Mapping[str, bytes]:
    """The unit's files.

    Args:
        marks: Of every cell that succeeded.
        rates: The rate table's rows, in order.
        unread: Why a finished cell could not be read, by its unit; no file where there is none.
    """
    rows = [mark for marked in marks.values() for mark in marked]
    names = [cell for cell, marked in marks.items() for _ in marked]
    columns = {
        name: pa.array([getattr(mark, name) for mark in rows], kind)
        for name, kind in _COLUMNS.items()
    }
    if any(mark.value is not None for mark in rows):
        columns |= {"value": pa.array([mark.value for mark in rows], pa.float64())}
    table = pa.table({"cell": pa.array(names, pa.string()), **columns})
    files = {FILE: table_bytes(table), RATES: format_rates(list(rates)).encode()}
    return files if not unread else {**files, UNREAD: json_bytes(unread)}


def from_unit(unit: StoredUnit) -> Marks:
    """The marks.

    Raises:
        IntegrityError: The file is not what its manifest says, or holds no marks.
    """
    table, marks = read_table(unit, FILE), dict[str, list[Mark]]()
    valued = {"value": pa.float64()} if "value" in table.column_names else {}
    columns = {"cell": pa.string(), **_COLUMNS, **valued}
    try:
        for row in in_columns(table, columns, may_lack=_MAY_LACK).to_pylist():
            marks.setdefault(row.pop("cell"), []).append(Mark(**row))
    except UNFIT as error:
        raise IntegrityError(f"{unit.directory / FILE} holds no marks: {error}") from error
    return marks


def unread_of(unit: StoredUnit) -> Mapping[str, str]:
    """Why a finished cell could not be read, by the cell's name.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    if UNREAD not in unit.manifest.files:
        return {}
    known = read_record(dict[str, str], unit.read(UNREAD), f"{unit.directory / UNREAD}")
    return {name.removeprefix("cell/"): why for name, why in known.items()}


def rates_of(unit: StoredUnit, experiment: Experiment) -> RateTable:
    """The rate table.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    return read_rates(unit.path(RATES), experiment)
