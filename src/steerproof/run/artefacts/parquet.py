"""Tables as bytes and back."""

import io
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from steerproof.errors import IntegrityError, short_of
from steerproof.run.store.manifest import StoredUnit

_NO_THREAD = "Failed to launch worker thread"
"""What Arrow says where the machine gives it no thread."""
UNFIT = (KeyError, TypeError, ValueError, pa.ArrowNotImplementedError)
"""What `in_columns`, and making records of its rows, raise where a table holds something else."""


def table_bytes(table: pa.Table) -> bytes:
    """The bytes of a Parquet file: the same for the same table."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_table(unit: StoredUnit, name: str) -> pa.Table:
    """A verified Parquet file of a unit.

    Read by one thread: Arrow's own may still run when the interpreter ends, and abort it.

    Raises:
        DamagedError: The file does not match the manifest.
        IntegrityError: It does, and is no table.
        MemoryError: There is no room, or no thread, to read it with.
    """
    data = unit.read(name)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) or short_of(error) or _NO_THREAD in str(error):
            raise MemoryError(f"{unit.directory / name} cannot be read: {error}") from error
        raise IntegrityError(f"{unit.directory / name} is no table: {error}") from error


def in_columns(
    table: pa.Table, columns: Mapping[str, pa.DataType], *, may_lack: Collection[str] = ()
) -> pa.Table:
    """These columns of a table, each of its type.

    Args:
        table: As it was read.
        columns: Type by name.
        may_lack: Those in which a row need not have a value.

    Raises:
        KeyError: A column is not there, or twice.
        ValueError: A row has no value where it must have one.
        pa.ArrowException: A column is of another type.
    """
    rows = table.select(list(columns)).cast(pa.schema(list(columns.items())))
    lacking = [name for name in columns if name not in may_lack and rows[name].null_count]
    if lacking:
        raise ValueError(f"a value of {lacking[0]} is missing")
    return rows
