"""Training rows in one line without padding: adapter after adapter, row after row.

An adapter's tokens fill whole tiles, so that a kernel's program computes for one adapter. What is
left over, at most a tile an adapter and what rounds the line up to one of few lengths, is filled by
pads, which are rows of their own and nobody's: attention goes from row to row (`packed_attention`),
and positions begin anew in each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerproof.engine.batches import StepRows, rounded_up
from steerproof.engine.lora.tiles import TILE

_SHARE = 8
"""A line is as long as a multiple of a sixteenth to an eighth of it: two or three lengths, and some
4% of pads."""
_PARTS = 8
"""Completion tokens are as many as a multiple of the line over this."""
_LONGEST = 128
"""The longest row is told to attention as a multiple of this: few lengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Rows of several adapters in one line."""

    ids: Int[Tensor, "1 token"]
    positions: Int[Tensor, "1 token"]
    """Of each token in its row."""
    mask: Bool[Tensor, "1 token"]
    """True where a token is real."""
    push_slots: Int[Tensor, "1 token"]
    dropout_keys: Int[Tensor, "1 token"]
    tiles: Int[Tensor, " tile"]
    """The adapter slot of each tile of tokens; 0 for nobody's."""
    ends: Int[Tensor, " row1"]
    """Where rows begin and the last ends, pads' rows too; some rows are empty."""
    longest: int
    """No row has more tokens."""
    predicting: Int[Tensor, " completion"]
    """Where completion tokens are predicted."""
    targets: Int[Tensor, " completion"]
    weights: Float[Tensor, " completion"]
    """1 / completion tokens of the adapter's whole step."""
    owners: Int[Tensor, " completion"]
    """Adapter slot of each completion token."""
    steered: frozenset[int]
    """Slots of the adapters one of whose rows is pushed."""


def packed_batches(
    steps: Sequence[StepRows], tokens: int, pad_id: int, *, longest: int, rounded: bool
) -> Iterator[PackedRows]:
    """Deal the adapters' rows to as few lines of at most about `tokens` tokens as will do.

    Every line has about as many tokens of each adapter. A row longer than `tokens` still goes.

    Args:
        steps: The adapters' steps.
        tokens: How many are computed at once, pads included.
        pad_id: What fills up.
        longest: No row has more tokens, in any step.
        rounded: Whether lines are rounded up to few lengths.
    """
    ordered = sorted(steps, key=lambda step: step.slot)
    lines = max(1, -(-sum(_filled(_length(step)) for step in ordered) // tokens))
    dealt = [_dealt(step, lines, turn) for turn, step in enumerate(ordered)]
    for line in range(lines):
        mine = [(step, rows[line]) for step, rows in zip(ordered, dealt, strict=True)]
        mine = [(step, rows) for step, rows in mine if rows]
        if mine:
            yield _line(mine, pad_id, rounded_up(longest, _LONGEST), rounded)


def _dealt(step: StepRows, lines: int, turn: int) -> list[list[int]]:
    """A step's rows dealt to lines, the longest first, each to the line with the fewest tokens.

    `turn` says where dealing begins, so that not every adapter gives the first line its most.
    """
    dealt: list[list[int]] = [[] for _ in range(lines)]
    filled = [0] * lines
    for row in sorted(range(len(step.rows)), key=lambda i: (-step.examples[i].length, i)):
        line = min(range(lines), key=lambda k: (filled[k], (k + turn) % lines))
        dealt[line].append(row)
        filled[line] += step.examples[row].length
    return dealt


def _length(step: StepRows) -> int:
    return sum(example.length for example in step.examples)


def _filled(tokens: int) -> int:
    """Tokens of as many whole tiles."""
    return -(-tokens // TILE) * TILE


def _line(
    parts: Sequence[tuple[StepRows, list[int]]], pad_id: int, longest: int, rounded: bool
) -> PackedRows:
    shares = [_filled(sum(step.examples[i].length for i in mine)) for step, mine in parts]
    total = sum(shares)
    if rounded:
        total = rounded_up(total, max(2 * TILE, 2 ** int(np.log2(total / _SHARE))))
    tokens = _Tokens(total, pad_id)
    tiles = np.zeros(total // TILE, dtype=np.int32)
    at = 0
    for (step, mine), share in zip(parts, shares, strict=True):
        tiles[at // TILE : (at + share) // TILE] = step.slot
        for i in mine:
            tokens.put(step, i, at)
            at += step.examples[i].length
        at = tokens.skip(at, _filled(at))
    while at < total:
        at = tokens.skip(at, min(total, at + longest))
    return tokens.packed(tiles, longest, rounded)


class _Learnt(NamedTuple):
    """The tokens of one completion, to be learnt."""

    predicting: np.ndarray
    """Positions in the line whose hidden states predict them."""
    targets: np.ndarray
    weights: np.ndarray
    """In the loss of the adapter's step."""
    owners: np.ndarray
    """The adapter's slot, for each."""


class _Tokens:
    """A line that is being filled."""

    def __init__(self, total: int, pad_id: int) -> None:
        self.total = total
        self.ids = np.full(total, pad_id, dtype=np.int64)
        self.positions = np.zeros(total, dtype=np.int64)
        self.push_slots, self.keys = self.positions.copy(), self.positions.copy()
        self.mask = np.zeros(total, dtype=bool)
        self.ends = [0]
        self.learnt: list[_Learnt] = []
        self.steered: set[int] = set()

    def put(self, step: StepRows, row: int, at: int) -> None:
        """A row of an adapter, from `at`."""
        example = step.examples[row]
        prompt, length = len(example.prompt_ids), example.length
        here = slice(at, at + length)
        self.ids[here] = example.prompt_ids + example.completion_ids
        self.positions[here] = np.arange(length)
        self.push_slots[here] = step.push_slots[row]
        self.keys[here] = step.dropout_keys[row]
        self.mask[here] = True
        self.ends.append(at + length)
        self.learnt.append(
            _Learnt(
                predicting=np.arange(at + prompt - 1, at + length - 1),
                targets=self.ids[at + prompt : at + length],
                weights=np.full(length - prompt, 1.0 / step.completion_tokens),
                owners=np.full(length - prompt, step.slot),
            )
        )
        if step.push_slots[row]:
            self.steered.add(step.slot)

    def skip(self, at: int, until: int) -> int:
        """Pads, as a row of their own; returns where they end."""
        if until > at:
            self.positions[at:until] = np.arange(until - at)
            self.ends.append(until)
        return until

    def packed(self, tiles: np.ndarray, longest: int, rounded: bool) -> PackedRows:
        """The line as tensors."""
        ends = self.ends
        if rounded:
            count = sum(len(part.targets) for part in self.learnt)
            lacking = rounded_up(count, max(1, self.total // _PARTS)) - count
            # What is added weighs nothing, and is nobody's.
            nothing = np.zeros(lacking, dtype=np.int64)
            self.learnt.append(_Learnt(nothing, nothing, np.zeros(lacking), nothing))
            ends = ends + [self.total] * (rounded_up(len(ends), 32) - len(ends))
        predicting, targets, weights, owners = map(np.concatenate, zip(*self.learnt, strict=True))
        return PackedRows(
            ids=torch.from_numpy(self.ids)[None],
            positions=torch.from_numpy(self.positions)[None],
            mask=torch.from_numpy(self.mask)[None],
            push_slots=torch.from_numpy(self.push_slots)[None],
            dropout_keys=torch.from_numpy(self.keys)[None],
            tiles=torch.from_numpy(tiles),
            ends=torch.tensor(ends, dtype=torch.int32),
            longest=longest,
            predicting=torch.from_numpy(predicting),
            targets=torch.from_numpy(targets),
            weights=torch.from_numpy(weights),
            owners=torch.from_numpy(owners),
            steered=frozenset(self.steered),
        )
