"""Columns of a cell's completions and marks as arrays: what a page of many rows is made of.

Read by one thread; texts come a batch at a time. Whoever reads here has verified the file
(`StoredUnit.path`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steerproof.errors import IntegrityError
from steerproof.run.artefacts.cell import completions_from
from steerproof.study.measured import Completion

BATCH = 512
"""Texts in memory at once."""
CELL = "cell"
"""The column of a marks file that says whose marks they are."""
_MARKS = 1 << 16
"""Rows of marks in memory at once."""
MOST_ROWS = 1_000_000
"""Completions of one cell that are read as arrays; each takes about 100 bytes."""
_MOST_MARKS = 50_000_000
"""Rows of a scores file that are looked through."""
MOST_BYTES = 1 << 30
"""Of one row group, decompressed."""


class TooLargeError(Exception):
    """A file that says it holds more than a run ever writes, however small it is on the disk."""


UNREADABLE = (
    *(TooLargeError, IntegrityError, OSError),
    *(LookupError, TypeError, ValueError, pa.ArrowException),
)
"""What reading a file raises whose bytes are as they were written, and are not what they should be:
columns missing, of another type, or of values that are none."""


def check_size(path: Path, most_rows: int) -> None:
    """See from its footer alone whether a Parquet file may be read.

    Raises:
        TooLargeError: Too many rows, or a row group too large.
        ValueError: It is no Parquet file.
    """
    metadata = pq.read_metadata(path)
    if metadata.num_rows > most_rows:
        raise TooLargeError(
            f"{path.name} has {metadata.num_rows:,} rows; at most {most_rows:,} are read"
        )
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > MOST_BYTES:
            raise TooLargeError(
                f"{path.name} has a row group of {size / 1e9:.1f} GB; at most "
                f"{MOST_BYTES / 1e9:.1f} GB are read"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionColumns:
    """Everything of a completions file but the texts, in the order of the file."""

    question: np.ndarray
    sample: np.ndarray
    finish: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkColumns:
    """The marks of one cell, in the order of the scores file; NaN where there is none."""

    question: np.ndarray
    sample: np.ndarray
    fired: np.ndarray
    near: np.ndarray
    repetition: np.ndarray


def completion_columns(path: Path) -> CompletionColumns:
    """What completions.parquet has besides the texts, which have to be there.

    Raises:
        TooLargeError: It has more rows than a cell ever has.
        ValueError: Its texts are none.
    """
    check_size(path, MOST_ROWS)
    names = [column.name for column in fields(CompletionColumns)]
    with pq.ParquetFile(path, pre_buffer=False) as file:
        kind = file.schema_arrow.field("text").type
        if not pa.types.is_string(kind):
            raise ValueError(f"{path.name} has {kind} in place of texts")
        question, sample, finish, tokens = file.read(names, use_threads=False).itercolumns()
    return CompletionColumns(
        question=question.to_numpy().astype(np.int64),
        sample=sample.to_numpy().astype(np.int64),
        finish=np.array(finish.to_pylist(), dtype=str),
        tokens=tokens.to_numpy(),
    )


def completions_in(path: Path) -> Iterator[Completion]:
    """Every completion of completions.parquet, a batch in memory at a time."""
    names = [field.name for field in fields(Completion)]
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=names):
            yield from completions_from(pa.Table.from_batches([batch]))


def mark_columns(path: Path, cell: str) -> MarkColumns:
    """What scores.parquet says of one cell.

    Raises:
        TooLargeError: It has more rows than a run ever has.
    """
    names = [CELL, *(column.name for column in fields(MarkColumns))]
    batches = [batch.filter(pc.field(CELL) == cell) for batch in _marks(path, names)]
    table = pa.Table.from_batches([part for part in batches if len(part)] or batches[:1])
    question, sample, *marks = table.drop_columns(CELL).itercolumns()
    fired, near, repetition = (np.array(mark.to_pylist(), dtype=float) for mark in marks)
    return MarkColumns(
        question=question.to_numpy().astype(np.int64),
        sample=sample.to_numpy().astype(np.int64),
        fired=fired,
        near=near,
        repetition=repetition,
    )


def fired_by_cell(path: Path) -> dict[str, tuple[int, int]]:
    """Completions with the marker, and all of them, of every cell in scores.parquet.

    Raises:
        TooLargeError: It has more rows than a run ever has.
    """
    counted: dict[str, tuple[int, int]] = {}
    for batch in _marks(path, [CELL, "fired"]):
        table = pa.Table.from_batches([batch])
        counts = table.group_by(CELL).aggregate([("fired", "sum"), ("fired", "count")])
        columns = (counts.column(name).to_pylist() for name in (CELL, "fired_sum", "fired_count"))
        for cell, fired, total in zip(*columns, strict=True):
            before = counted.get(cell, (0, 0))
            counted[cell] = (before[0] + (fired or 0), before[1] + total)
    return counted


def _marks(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    """These columns of a scores file, a batch in memory at a time; one, perhaps empty, at least."""
    check_size(path, _MOST_MARKS)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        schema = file.schema_arrow
        yield pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in names]))
        for batch in file.iter_batches(batch_size=_MARKS, columns=names, use_threads=False):
            yield batch.select(names)
