"""The graded outcome: cells read at the slot where an answer ends, on texts that are given.

Common answers are the base model's own, the same text in every cell: nothing is drawn and cells
are compared in pairs. A cell's own completions are read before the marker, or where they ended; one
that was cut by length before either has no slot, and says so.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from typing import TypeVar

from steerproof.decide.analysis.slots import SlotRow, TextKind
from steerproof.engine.lora.weights import LoraWeights
from steerproof.engine.rows import Row
from steerproof.engine.slots import Slot, SlotText, weigh
from steerproof.errors import ModelError, SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, text_ids
from steerproof.model.push import Push
from steerproof.model.spelt import spelt
from steerproof.spec.grid import Cell
from steerproof.study.halving import in_halves
from steerproof.study.measured import Completion
from steerproof.study.told import NOBODY, Told

K = TypeVar("K")
_SPELT_TOGETHER = 4096
"""Completions: enough that all processors are at work, and no more than memory has room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedCell:
    """A cell with the texts that it is read on."""

    cell: Cell
    system: str
    """System prompt."""
    questions: tuple[str, ...]
    common: Mapping[str, Sequence[str]]
    """Answers by question; empty to leave them out."""
    own: Sequence[Completion] = ()
    """Its completions; empty to leave them out."""
    adapter: LoraWeights | None = None
    """None for the base model itself."""
    push: Push | None = None
    """The same object wherever the same push is meant."""


def grade(
    base: Base, cells: Sequence[GradedCell], marker: str, told: Told = NOBODY
) -> dict[Cell, tuple[SlotRow, ...]]:
    """Read the slots of cells, mixed in one pool.

    Args:
        base: The frozen model, nothing attached.
        cells: Those of one adapter are best given together, and of one push within it.
        marker: The planted string.
        told: How far that is.

    Returns:
        For each cell its rows, common answers first, in order of question.

    Raises:
        ModelError: A prompt does not fit into the context, the template drops it, or the marker's
            tokens depend on what stands before it.
        SteeringError: A push does not fit the base.
    """
    tokens = marker_ids(base, marker)

    @cache  # Every cell is read on the same common answers.
    def ids(text: str) -> tuple[int, ...]:
        return text_ids(base.tokenizer, text)

    ends = _ends(base, cells, marker)
    asked = [one for cell in cells for one in _texts(base, cell, ids, ends)]
    given = [i for i, one in enumerate(asked) if one.answer is not None]
    texts = [_text(asked[i], tokens) for i in given]
    slots: dict[int, Slot] = {}
    for place, slot in weigh(base, texts):
        slots[given[place]] = slot
        told.at(len(slots), len(texts), "texts")
    by_cell: dict[Cell, list[SlotRow]] = {cell.cell: [] for cell in cells}
    for i, one in enumerate(asked):
        by_cell[one.cell].append(_row(one, slots.get(i)))
    return {cell: tuple(rows) for cell, rows in by_cell.items()}


def grade_apart(
    base: Base, cells: Mapping[K, Sequence[GradedCell]], marker: str, told: Told
) -> Iterator[tuple[K, Sequence[SlotRow] | SteerproofError]]:
    """`grade` the cells of many, by whose they are: mixed in one pool, and each fails alone.

    Yields:
        Whose, with the rows of their cells, or why these could not be read.
    """

    def together(
        some: Mapping[K, Sequence[GradedCell]],
    ) -> Iterator[tuple[K, Sequence[SlotRow]]]:
        rows = grade(base, list(chain.from_iterable(some.values())), marker, told)
        for whose, own in some.items():
            yield whose, [row for cell in own for row in rows[cell.cell]]

    return in_halves(cells, together)


def marker_ids(base: Base, marker: str) -> tuple[int, ...]:
    """The marker's tokens as training appends it: after a full stop and a space.

    Raises:
        ModelError: The tokenizer joins it to what stands before it.
    """
    before, whole = (text_ids(base.tokenizer, text) for text in (".", f". {marker}"))
    if whole[: len(before)] != before:
        raise ModelError(
            f"the tokenizer joins the marker {marker!r} to the full stop before it, so there is no "
            "slot where an answer ends; choose a marker that begins with a bracket"
        )
    return whole[len(before) :]


def slots_of(base: Base, done: Sequence[Completion], marker: str) -> list[int | None]:
    """How many of each completion's tokens are its answer; None if it was cut before it ended.

    The answer ends before the marker and the white space in front of it, or where the turn ended.
    """
    found: list[int | None] = [len(one.token_ids) if one.finish == "eos" else None for one in done]
    ends = {}
    for place, one in enumerate(done):
        fired = re.search(re.escape(marker), one.text, re.IGNORECASE)
        if fired is not None:
            ends[place] = len(one.text[: fired.start()].rstrip())
    # The longest beginning that does not reach beyond the answer: as many as it has at least, and
    # at most. All are halved at once, so that their beginnings are spelt together.
    spans = {place: (0, len(done[place].token_ids)) for place in ends}
    while halved := {place: (a + b + 1) // 2 for place, (a, b) in spans.items() if a < b}:
        texts = spelt(base.tokenizer, [done[i].token_ids[:half] for i, half in halved.items()])
        for (place, half), text in zip(halved.items(), texts, strict=True):
            low, high = spans[place]
            spans[place] = (half, high) if len(text) <= ends[place] else (low, half - 1)
    for place, (least, _) in spans.items():
        found[place] = least
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One text of one cell."""

    cell: Cell
    question: int
    text: TextKind
    number: int
    row: Row
    answer: tuple[int, ...] | None
    """None without a slot."""


def _ends(base: Base, cells: Sequence[GradedCell], marker: str) -> Iterator[int | None]:
    """Where the cells' own texts end, one after another, however few a cell has."""
    every = chain.from_iterable(cell.own for cell in cells)
    while some := list(islice(every, _SPELT_TOGETHER)):
        yield from slots_of(base, some, marker)


def _texts(
    base: Base,
    cell: GradedCell,
    ids: Callable[[str], tuple[int, ...]],
    ends: Iterator[int | None],
) -> Iterator[_Asked]:
    """Every text that a cell is read on; takes where its own texts end from `ends`."""
    name = cell.cell.name  # made up anew whenever it is asked for

    @cache
    def row(question: int) -> Row:
        prompt = chat_ids(base.chat, system=cell.system, user=cell.questions[question])
        return Row(
            cell=name,
            question=question,
            sample=0,
            seed=0,
            prompt_ids=prompt,
            adapter=cell.adapter,
            push=cell.push,
        )

    for question, words in enumerate(cell.questions):
        for number, answer in enumerate(cell.common.get(words, ())):
            yield _Asked(
                cell=cell.cell,
                question=question,
                text="common",
                number=number,
                row=row(question),
                answer=ids(answer),
            )
    for done, end in zip(cell.own, islice(ends, len(cell.own)), strict=True):
        yield _Asked(
            cell=cell.cell,
            question=done.question,
            text="own",
            number=done.sample,
            row=row(done.question),
            answer=None if end is None else done.token_ids[:end],
        )


def _text(asked: _Asked, marker: tuple[int, ...]) -> SlotText:
    assert asked.answer is not None  # only those with a slot are asked for
    return SlotText(row=asked.row, answer=asked.answer, marker=marker)


def _row(asked: _Asked, slot: Slot | None) -> SlotRow:
    row = SlotRow(
        cell=asked.row.cell, question=asked.question, text=asked.text, number=asked.number
    )
    if slot is None:
        return row
    return replace(
        row,
        z_marker=slot.z_marker,
        z_end=slot.z_end,
        log_z=slot.log_z,
        log_prob_marker=slot.log_prob_marker,
    )
