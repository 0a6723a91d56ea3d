"""A cell unit: what was asked and what arrived, and every completion that came of it."""

from collections.abc import Mapping
from dataclasses import fields

import pyarrow as pa

from steerproof.codec import json_bytes, read_record
from steerproof.errors import IntegrityError
from steerproof.run.artefacts.parquet import UNFIT, in_columns, read_table, table_bytes
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.manifest import DamagedError, StoredUnit
from steerproof.study.measured import CellRecord, Completion, MeasuredCell

FILE, COMPLETIONS = "cell.json", "completions.parquet"
_COLUMNS = {
    "question": pa.int32(),
    "sample": pa.int32(),
    "seed": pa.int64(),
    "text": pa.string(),
    "token_ids": pa.list_(pa.int32()),
    "tokens": pa.int32(),
    "finish": pa.string(),
    "early_chars": pa.int32(),
}


def to_files(measured: MeasuredCell) -> Mapping[str, bytes]:
    """The unit's files."""
    record = CellRecord(**{f.name: getattr(measured, f.name) for f in fields(CellRecord)})
    table = pa.table(
        {
            name: pa.array([_plain(getattr(done, name)) for done in measured.completions], kind)
            for name, kind in _COLUMNS.items()
        }
    )
    return {COMPLETIONS: table_bytes(table), FILE: json_bytes(record)}


def from_unit(unit: StoredUnit) -> MeasuredCell:
    """The measurement with all its completions.

    Raises:
        IntegrityError: A file is not what its manifest says.
    """
    record = record_of(unit)
    return MeasuredCell(
        **{f.name: getattr(record, f.name) for f in fields(CellRecord)},
        completions=completions_of(unit),
    )


def readable(
    units: Mapping[UnitId, StoredUnit],
) -> tuple[dict[str, MeasuredCell], dict[str, str]]:
    """The measurements by cell name, and why a unit that is whole makes no sense, by its name.

    Raises:
        DamagedError: A file is not what was written; the next run does its unit again.
    """
    cells: dict[str, MeasuredCell] = {}
    unread: dict[str, str] = {}
    for unit, stored in units.items():
        if unit.kind != "cell":
            continue
        try:
            measured = from_unit(stored)
            if measured.cell.name != unit.name:
                raise IntegrityError(f"{FILE} is of {measured.cell.name}")
            cells[unit.name] = measured
        except DamagedError:
            raise
        except IntegrityError as error:
            # Where the run directory lies is no part of what was found in it.
            unread[str(unit)] = str(error).replace(f"{stored.directory}/", "")
    return cells, unread


def record_of(unit: StoredUnit) -> CellRecord:
    """What was asked and what arrived, without the completions.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    return read_record(CellRecord, unit.read(FILE), f"{unit.directory / FILE}")


def completions_of(unit: StoredUnit) -> tuple[Completion, ...]:
    """The completions, in order of question and sample.

    Raises:
        IntegrityError: The file is not what its manifest says.
    """
    table = read_table(unit, COMPLETIONS)
    try:
        done = completions_from(table)
        asked = len(unit.manifest.recipe.inputs.get("questions", ()))
        if asked and not all(0 <= one.question < asked for one in done):
            raise ValueError(f"a question is none of the {asked}")
    except UNFIT as error:
        place = unit.directory / COMPLETIONS
        raise IntegrityError(f"{place} holds no completions: {error}") from error
    return done


def completions_from(table: pa.Table) -> tuple[Completion, ...]:
    """The completions that rows of such a table hold.

    Raises:
        KeyError, ValueError, pa.ArrowException: They hold none.
    """
    names = [f.name for f in fields(Completion)]
    rows = in_columns(table, {name: _COLUMNS[name] for name in names})
    # Column by column: a thousand cells have millions of tokens.
    columns = {name: rows[name].to_pylist() for name in names}
    columns["token_ids"] = [tuple(ids) for ids in columns["token_ids"]]
    lines = zip(*columns.values(), strict=True)
    return tuple(Completion(**dict(zip(names, line, strict=True))) for line in lines)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
