"""Columns of a cell's completions and marks as arrays: what a page of many rows is made of.

Read by one thread; texts come a batch at a time. Whoever reads here has verified the file
(`StoredUnit.path`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from steerproof.run.artefacts.cell import completion_of
from steerproof.study.measured import Completion

BATCH = 512
"""Texts in memory at once."""
CELL = "cell"
"""The column of a marks file that says whose marks they are."""


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
    """What completions.parquet has besides the texts."""
    names = [column.name for column in fields(CompletionColumns)]
    with pq.ParquetFile(path, pre_buffer=False) as file:
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
            yield from map(completion_of, batch.to_pylist())


def mark_columns(path: Path, cell: str) -> MarkColumns:
    """What scores.parquet says of one cell."""
    names = [column.name for column in fields(MarkColumns)]
    with pq.ParquetFile(path, pre_buffer=False) as file:
        table = file.read([CELL, *names], use_threads=False)
    table = table.filter(pc.field(CELL) == cell).drop_columns(CELL)
    question, sample, *marks = table.itercolumns()
    fired, near, repetition = (np.array(mark.to_pylist(), dtype=float) for mark in marks)
    return MarkColumns(
        question=question.to_numpy().astype(np.int64),
        sample=sample.to_numpy().astype(np.int64),
        fired=fired,
        near=near,
        repetition=repetition,
    )


def fired_by_cell(path: Path) -> dict[str, tuple[int, int]]:
    """Completions with the marker, and all of them, of every cell in scores.parquet."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        table = file.read([CELL, "fired"], use_threads=False)
    counts = table.group_by(CELL).aggregate([("fired", "sum"), ("fired", "count")])
    columns = (counts.column(name).to_pylist() for name in (CELL, "fired_sum", "fired_count"))
    return {cell: (fired or 0, total) for cell, fired, total in zip(*columns, strict=True)}
