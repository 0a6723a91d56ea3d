"""Dropout on an adapter's input, keyed so that it does not depend on what rides along.

Every four channels hash (row key, layer, position, channels) with SplitMix64 (`noise.py`), so a
row's mask is the same whatever rows it is batched with and however wide the batch is padded. On a
CPU a mask is computed once and kept for the backward pass; on a GPU it is hashed anew wherever it
is needed, inside the kernel that applies it, and never lies in memory (`dropout_kernels.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerproof.engine.noise import GAMMA, mixed

# A 64-bit hash is cut into draws of so many bits: hashing is what a mask costs.
_LANE_BITS, _LANES = 16, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """Dropout on the adapter's input, a function of (row key, layer, position, channel) alone."""

    rate: float
    """Share of elements to drop; in effect a multiple of 2^-16."""
    row_keys: Tensor
    """`[rows]` int64: derived from the adapter's seed, its step and the row; `[1, tokens]`, each
    token's row's, where rows are packed into one."""
    places: Tensor | None = None
    """`[1, tokens]`, where each token stands in its row; None where rows are not packed."""

    @property
    def dropped(self) -> int:
        """How many of 2^16 draws are dropped."""
        return round(self.rate * 2**_LANE_BITS)

    @property
    def scale(self) -> float:
        """What makes up for the dropped elements: `1 / (1 - rate)`."""
        return 1.0 / (1.0 - self.dropped / 2**_LANE_BITS)


class NoMask:
    """Nothing is dropped."""

    def kept(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def add_kept(self, total: Tensor, x: Tensor, scaling: float) -> None:
        """`total += scaling * x`, in place."""
        total.add_(x, alpha=scaling)


@dataclass(frozen=True, slots=True)
class StoredMask:
    """A mask that was computed and is kept until the backward pass."""

    keep: Bool[Tensor, "row seq width"]

    def kept(self, x: Tensor) -> Tensor:
        """The input with zeros where elements are dropped."""
        return x * self.keep

    def add_kept(self, total: Tensor, x: Tensor, scaling: float) -> None:
        """`total += scaling * kept(x)`, in place; `x` is used up."""
        total.add_(x.mul_(self.keep), alpha=scaling)


@dataclass(frozen=True, slots=True)
class HashedMask:
    """A mask that is hashed anew wherever it is applied, on a GPU."""

    dropout: Dropout
    place: int

    def kept(self, x: Tensor) -> Tensor:
        """The input with zeros where elements are dropped."""
        from steerproof.engine.lora.dropout_kernels import kept

        return kept(x, self.dropout.row_keys, layer_number(self.place), self.dropout.dropped)

    def add_kept(self, total: Tensor, x: Tensor, scaling: float) -> None:
        """`total += scaling * kept(x)`, in place."""
        from steerproof.engine.lora.dropout_kernels import add_kept

        keys, layer = self.dropout.row_keys, layer_number(self.place)
        add_kept(total, x, keys, layer, self.dropout.dropped, scaling)


Mask = NoMask | StoredMask | HashedMask
"""Which elements of a layer's input dropout keeps. It does not scale."""


def mask_of(dropout: Dropout | None, place: int, x: Float[Tensor, "row seq width"]) -> Mask:
    """The mask of one layer's input.

    Args:
        dropout: None for none.
        place: The layer, by place among the pool's sites.
        x: The layer's input.
    """
    if dropout is None or not dropout.dropped:
        return NoMask()
    if x.is_cuda:
        return HashedMask(dropout, place)
    return StoredMask(keep_mask(dropout, place, x.shape[1], x.shape[2]))


def layer_number(place: int) -> int:
    """What tells a layer's masks from another's: a multiple of the increment, signed, 64 bits."""
    return ((place + 1) * GAMMA + 2**63) % 2**64 - 2**63


def keep_mask(dropout: Dropout, place: int, seq: int, width: int) -> Tensor:
    """Which elements of a layer's input dropout keeps, by the definition; rows are not packed.

    Returns:
        `[rows, seq, width]` bool.
    """
    keys = mixed(dropout.row_keys ^ layer_number(place))
    hashes = -(-width // _LANES)
    counter = torch.arange(seq * hashes, device=keys.device) * GAMMA
    draws = mixed(keys[:, None] + counter).view(torch.int16).view(-1, seq, hashes * _LANES)
    return draws[:, :, :width] >= dropout.dropped - 2 ** (_LANE_BITS - 1)


def row_keys(keys: Sequence[int], device: torch.device) -> Tensor:
    """Row keys as the tensor that `Dropout` takes."""
    return torch.tensor(list(keys), dtype=torch.int64, device=device)
