"""The files of units as values, and values as bytes. No torch."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steerproof.run.store.manifest import StoredUnit


def read_json(unit: StoredUnit, name: str) -> Any:
    """A verified JSON file of a unit."""
    return json.loads(unit.read(name))


def to_json(value: object) -> bytes:
    """The bytes of a JSON file: readable, no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_table(unit: StoredUnit, name: str) -> pa.Table:
    """A verified Parquet file of a unit."""
    return pq.read_table(io.BytesIO(unit.read(name)))


def table_bytes(table: pa.Table) -> bytes:
    """The bytes of a Parquet file: the same for the same table."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
