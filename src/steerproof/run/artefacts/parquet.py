"""Tables as bytes and back."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from steerproof.errors import IntegrityError
from steerproof.run.store.manifest import StoredUnit


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
    """
    data = unit.read(name)
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{unit.directory / name} is no table: {error}") from error
