"""Prompts packed for one forward pass: what several of them begin with is computed once.

Prompts of one adapter and one push lie in one sequence as a prefix tree (a trie, flattened as in
tree attention, Miao et al. 2023, arXiv 2305.09781): every token attends to the tokens on its way
from the root, and its position is its depth. The questions of a cell share the system prompt,
which often is most of what they are.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from steerproof.engine.rows import Row

_PACKED = 512


def packed_length(device: torch.device) -> int:
    """Most tokens of a sequence of several prompts: its attention is quadratic.

    0 on a GPU, whose fast attention takes no mask.
    """
    return 0 if device.type == "cuda" else _PACKED


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPrompts:
    """Sequences of the tokens of prompts, each token that several begin with once."""

    rows: list[Row]
    """One for each sequence: its adapter and its push."""
    ids: np.ndarray
    """`[sequences, width]`."""
    positions: np.ndarray
    """`[sequences, width]`."""
    real: np.ndarray
    """`[sequences, width]`, where there is a token."""
    mask: np.ndarray | None
    """`[sequences, 1, width, width]`, who attends to whom; None when each to all before it."""
    paths: list[list[int]]
    """Of each prompt, the places of its tokens in the flattened sequences."""


def packed(
    rows: Sequence[Row],
    keys: Sequence[Hashable],
    prompts: Sequence[Sequence[int]],
    longest: int,
    pad: int,
) -> PackedPrompts:
    """Pack prompts.

    Args:
        rows: Whose adapter and push each prompt is computed under, in order of adapters.
        keys: Prompts of one key may share what they begin with.
        prompts: The tokens to be computed for each.
        longest: Tokens of a sequence of several prompts; 0 to share nothing, so that an attention
            without masks will do.
        pad: Token for places without one.
    """
    if not longest:
        return _apart(rows, prompts, pad)
    sequences: list[_Tree] = []
    places: list[tuple[int, list[int]]] = []
    latest: dict[Hashable, int] = {}
    for row, key, prompt in zip(rows, keys, prompts, strict=True):
        at = latest.get(key)
        if at is None or sequences[at].length_with(prompt) > longest:
            at = latest[key] = len(sequences)
            sequences.append(_Tree(row))
        places.append((at, sequences[at].add(prompt)))
    width = max(1, *(len(one.ids) for one in sequences))
    shape = (len(sequences), width)
    ids, positions, real = np.full(shape, pad), np.zeros(shape, np.int64), np.zeros(shape, bool)
    for place, one in enumerate(sequences):
        count = len(one.ids)
        ids[place, :count], positions[place, :count], real[place, :count] = one.ids, one.depths, 1
    alone = len(sequences) == len(rows)
    return PackedPrompts(
        rows=[one.row for one in sequences],
        ids=ids,
        positions=positions,
        real=real,
        mask=None if alone else np.stack([one.mask(width) for one in sequences])[:, None],
        paths=[[at * width + node for node in path] for at, path in places],
    )


def _apart(rows: Sequence[Row], prompts: Sequence[Sequence[int]], pad: int) -> PackedPrompts:
    """Each prompt as a sequence of its own."""
    lengths = np.array([len(prompt) for prompt in prompts])
    width = max(1, int(lengths.max(initial=0)))
    column = np.arange(width)
    real = column < lengths[:, None]
    ids = np.full(real.shape, pad)
    ids[real] = np.fromiter(chain(*prompts), dtype=ids.dtype, count=int(lengths.sum()))
    return PackedPrompts(
        rows=list(rows),
        ids=ids,
        positions=np.where(real, column, 0),
        real=real,
        mask=None,
        paths=[[*range(at * width, at * width + n)] for at, n in enumerate(lengths.tolist())],
    )


@dataclass(slots=True)
class _Tree:
    """A tree of prompts, in the order in which its tokens were added."""

    row: Row
    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)
    """By parent (-1 for the root) and token."""

    def length_with(self, prompt: Sequence[int]) -> int:
        """Tokens there would be with one more prompt."""
        node = -1
        for depth, token in enumerate(prompt):
            child = self.children.get((node, token))
            if child is None:
                return len(self.ids) + len(prompt) - depth
            node = child
        return len(self.ids)

    def add(self, prompt: Sequence[int]) -> list[int]:
        """Add a prompt; returns the places of its tokens."""
        path: list[int] = []
        for depth, token in enumerate(prompt):
            parent = path[-1] if path else -1
            node = self.children.setdefault((parent, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.depths.append(depth)
                self.parents.append(parent)
            path.append(node)
        return path

    def mask(self, width: int) -> np.ndarray:
        """`[width, width]`: every token sees its ancestors and itself, padding only itself."""
        sees = np.eye(width, dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees
