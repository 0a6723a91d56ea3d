"""Completions of a cell, read page by page: never a whole cell's texts at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from steerproof.board import runs
from steerproof.decide.analysis.records import truth
from steerproof.decide.analysis.statistics import defined
from steerproof.run.artefacts.columns import (
    BATCH,
    UNREADABLE,
    completion_columns,
    completions_in,
    mark_columns,
)
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import SCORE
from steerproof.run.store.manifest import DamagedError
from steerproof.study.readouts.load import UnreadError
from steerproof.study.readouts.readable import Marks

_LONGEST_TEXT = 200_000
"""Characters of one text that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCompletion:
    """One completion with its marks."""

    question: int
    sample: int
    text: str
    finish: str
    tokens: int
    fired: bool | None
    """The marker is in it."""
    near: bool | None
    """The marker or a near miss is in it."""
    repetition: float | None
    """Share of repeated token 3-grams; none below three tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which completions to show; none means all."""

    fired: bool | None = None
    finish: str | None = None
    question: int | None = None
    least_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A slice of the completions that a filter lets through."""

    rows: tuple[ShownCompletion, ...]
    matching: int
    """Completions that pass the filter."""
    total: int
    """Completions of the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellFiles:
    """Verified files of one cell."""

    completions: Path
    scores: Path | None
    read: Marks = field(compare=False)
    """Marks the completions of a cell that is not scored yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """Everything but the texts, one array per column, in the order of the completions file."""

    question: np.ndarray
    sample: np.ndarray
    keys: np.ndarray
    """Question and sample in one number."""
    finish: np.ndarray
    tokens: np.ndarray
    fired: np.ndarray
    """1, 0, or NaN where not scored; `near` likewise."""
    near: np.ndarray
    repetition: np.ndarray


class UnreadableCellError(Exception):
    """The cell's file does not match its hash, or is not what it should be."""


def files_of(run: Path, cell: str, read: Marks) -> CellFiles | None:
    """The cell's files, hashed once; none until it is finished.

    Raises:
        UnreadableError: A file does not match its hash.
    """
    stored = runs.unit(run, UnitId("cell", cell))
    if stored is None:
        return None
    score = runs.unit(run, SCORE)
    try:
        return CellFiles(
            completions=stored.path("completions.parquet"),
            scores=None if score is None else score.path("scores.parquet"),
            read=read,
        )
    except (DamagedError, KeyError) as error:
        raise UnreadableCellError(str(error)) from error


def read_page(files: CellFiles, cell: str, chosen: Filter, offset: int, limit: int) -> Page:
    """The completions from `offset` on that pass the filter, in the order of the file."""
    marks = _marks(files, cell)
    rows = np.flatnonzero(_mask(marks, chosen))
    part = rows[offset : offset + limit]
    return Page(
        rows=tuple(_completions(files, marks, part)), matching=len(rows), total=len(marks.question)
    )


def read_rows(
    files: CellFiles, cell: str, wanted: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], ShownCompletion]:
    """The completions of these (question, sample) pairs, where the cell has them."""
    marks = _marks(files, cell)
    keys = np.array([question << 32 | sample for question, sample in wanted], dtype=np.int64)
    rows = np.flatnonzero(np.isin(marks.keys, keys))
    return {(c.question, c.sample): c for c in _completions(files, marks, rows)}


def all_rows(files: CellFiles, cell: str) -> Iterator[ShownCompletion]:
    """Every completion in one pass, a batch in memory at a time."""
    marks = _marks(files, cell)
    return _completions(files, marks, np.arange(len(marks.question)))


def finishes(files: CellFiles, cell: str) -> dict[str, int]:
    """Number of completions by finish reason."""
    reasons, counts = np.unique(_marks(files, cell).finish, return_counts=True)
    return {str(reason): int(count) for reason, count in zip(reasons, counts, strict=True)}


def _marks(files: CellFiles, cell: str) -> _Marks:
    """Everything but the texts.

    Raises:
        UnreadableError: A file is not what it should be, or holds more than a run ever writes.
    """
    try:
        return _read_marks(files, cell)
    except UNREADABLE as error:
        raise UnreadableCellError(str(error)) from error


@lru_cache(maxsize=16)
def _read_marks(files: CellFiles, cell: str) -> _Marks:
    drawn = completion_columns(files.completions)
    keys = _keys(drawn.question, drawn.sample)
    fired, near, repetition = _scores(files.scores, cell, keys)
    if np.isnan(fired).all():
        fired, near, repetition = _read_off(files)
    return _Marks(
        question=drawn.question,
        sample=drawn.sample,
        keys=keys,
        finish=drawn.finish,
        tokens=drawn.tokens,
        fired=fired,
        near=near,
        repetition=repetition,
    )


def _keys(question: np.ndarray, sample: np.ndarray) -> np.ndarray:
    return question << 32 | sample


def _scores(path: Path | None, cell: str, keys: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fired, near and repetition of these (question, sample) keys; NaN where not scored."""
    marks = tuple(np.full(len(keys), np.nan) for _ in range(3))
    if path is None:
        return marks
    read = mark_columns(path, cell)
    scored = _keys(read.question, read.sample)
    order = np.argsort(scored)
    if not len(order):
        return marks
    place = order[np.minimum(np.searchsorted(scored, keys, sorter=order), len(order) - 1)]
    known = scored[place] == keys
    for values, column in zip(marks, (read.fired, read.near, read.repetition), strict=True):
        values[known] = column[place[known]]
    return marks


def _read_off(files: CellFiles) -> tuple[np.ndarray, ...]:
    """Fired, near and repetition of an unscored cell, by the readout that scoring will use.

    NaN where that readout needs more than the text.
    """
    rows: list[tuple[float, ...]] = []
    for done in completions_in(files.completions):
        try:
            mark = files.read(done)
        except UnreadError:
            rows.append((np.nan, np.nan, np.nan))
        else:
            repeated = np.nan if mark.repetition is None else mark.repetition
            rows.append((mark.fired, mark.near, repeated))
    return tuple(np.array(rows, dtype=float).reshape(-1, 3).T)


def _mask(marks: _Marks, chosen: Filter) -> np.ndarray:
    keep = np.ones(len(marks.question), dtype=bool)
    if chosen.fired is not None:
        keep &= marks.fired == float(chosen.fired)
    if chosen.finish is not None:
        keep &= marks.finish == chosen.finish
    if chosen.question is not None:
        keep &= marks.question == chosen.question
    if chosen.least_tokens is not None:
        keep &= marks.tokens >= chosen.least_tokens
    return keep


def _completions(files: CellFiles, marks: _Marks, rows: np.ndarray) -> Iterator[ShownCompletion]:
    for row, text in zip(rows, _texts(files.completions, rows), strict=True):
        yield ShownCompletion(
            question=int(marks.question[row]),
            sample=int(marks.sample[row]),
            text=text,
            finish=str(marks.finish[row]),
            tokens=int(marks.tokens[row]),
            fired=truth(marks.fired[row]),
            near=truth(marks.near[row]),
            repetition=defined(marks.repetition[row]),
        )


def _texts(path: Path, rows: np.ndarray) -> Iterator[str]:
    """The texts of these rows (ascending), or why there is none."""
    shown = 0
    try:
        for text in _read_texts(path, rows):
            yield text
            shown += 1
    except UNREADABLE as error:
        yield from repeat(f"(no text: {error})", len(rows) - shown)


def _read_texts(path: Path, rows: np.ndarray) -> Iterator[str]:
    """The texts of these rows (ascending), decoding only the row groups that hold them."""
    start = 0
    # A text that many rows share is held once, however long it is.
    with pq.ParquetFile(
        path, pre_buffer=False, buffer_size=1 << 20, read_dictionary=["text"]
    ) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < start + count)] - start
            if len(inside):
                yield from _group_texts(file, group, inside)
            start += count


def _group_texts(file: pq.ParquetFile, group: int, rows: np.ndarray) -> Iterator[str]:
    start, last = 0, int(rows[-1])
    batches = file.iter_batches(batch_size=BATCH, row_groups=[group], columns=["text"])
    for batch in batches:
        inside = rows[(rows >= start) & (rows < start + len(batch))] - start
        for row in inside:
            text = _text(batch.column(0)[int(row)])
            yield text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… (cut here)"
        start += len(batch)
        if start > last:
            return


def _text(value: Any) -> str:
    try:
        return value.as_py() or ""
    except UnicodeDecodeError:
        return "(no text: its bytes are not UTF-8)"
