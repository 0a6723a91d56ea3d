"""Dropout on a GPU, in Triton: the mask is hashed where it is applied and never stored.

As tensor operations a mask takes some thirty passes over 64-bit numbers, more than all products of
a small model's training step. Here an element is read once, its draw is hashed in registers, and
it is written once.
"""

# ruff: noqa: ANN001, ANN202, PLR0913

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_HASHES = 256  # Of one program: four elements each.
_WARPS = 4


def kept(
    x: Float[Tensor, "row seq width"], keys: Int[Tensor, " row"], layer: int, dropped: int
) -> Float[Tensor, "row seq width"]:
    """`x` with zeros where elements are dropped, by the definition of `dropout.keep_mask`.

    Args:
        x: A layer's input.
        keys: The rows' keys.
        layer: The layer's own number, as `dropout.layer_number` gives it.
        dropped: How many of 2^16 draws are dropped.
    """
    x = x.contiguous()
    result = torch.empty_like(x)
    _kept[_grid(x)](result, x, keys, layer, *x.shape[1:], dropped, HASHES=_HASHES, num_warps=_WARPS)
    return result


def add_kept(
    total: Float[Tensor, "row seq width"],
    x: Float[Tensor, "row seq width"],
    keys: Int[Tensor, " row"],
    layer: int,
    dropped: int,
    scaling: float,
) -> None:
    """`total += scaling * kept(x)`, in place; the sum is rounded once.

    Args:
        total: Contiguous.
        x: What is added where an element is kept.
        keys: The rows' keys.
        layer: The layer's own number, as `dropout.layer_number` gives it.
        dropped: How many of 2^16 draws are dropped.
        scaling: Factor.
    """
    x, shape = x.contiguous(), x.shape[1:]
    _add_kept[_grid(x)](
        total, x, keys, layer, *shape, dropped, scaling, HASHES=_HASHES, num_warps=_WARPS
    )


def _grid(x: Tensor) -> tuple[int, int]:
    rows, seq, width = x.shape
    return rows, triton.cdiv(seq * triton.cdiv(width, 4), _HASHES)


# Never specialised: every layer's number would be a kernel of its own.
@triton.jit(do_not_specialize=["layer"])
def _kept(result, x, keys, layer, seq, width, dropped, HASHES: tl.constexpr):
    at, inside, keep = _places(keys, layer, seq, width, dropped, HASHES)
    value = tl.load(x + at, mask=inside, other=0.0)
    tl.store(result + at, tl.where(keep, value, 0.0), mask=inside)


@triton.jit(do_not_specialize=["layer"])
def _add_kept(total, x, keys, layer, seq, width, dropped, scaling, HASHES: tl.constexpr):
    at, inside, keep = _places(keys, layer, seq, width, dropped, HASHES)
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    before = tl.load(total + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + at, before + tl.where(keep, value, 0.0) * scaling, mask=inside)


@triton.jit
def _places(keys, layer, seq, width, dropped, HASHES: tl.constexpr):
    """Where this program's elements lie, which exist, and which are kept: `[HASHES, 4]` each.

    Program (row, part) has a stretch of the row's hashes; hash `n` covers four neighbouring
    channels of position `n // hashes`, the last ones perhaps beyond the width.
    """
    row = tl.program_id(0).to(tl.int64)
    hashes = tl.cdiv(width, 4)
    n = tl.program_id(1) * HASHES + tl.arange(0, HASHES)
    key = mixed_bits((tl.load(keys + row) ^ layer).to(tl.uint64))
    draw = mixed_bits(key + n.to(tl.uint64) * 0x9E3779B97F4A7C15)
    lane = tl.arange(0, 4)
    channel = (n % hashes)[:, None] * 4 + lane[None, :]
    inside = (n < seq * hashes)[:, None] & (channel < width)
    at = row * seq * width + (n // hashes)[:, None].to(tl.int64) * width + channel
    bits = (draw[:, None] >> (lane * 16).to(tl.uint64)[None, :]) & 0xFFFF
    # The definition compares signed 16-bit numbers; turning the sign bit makes them unsigned.
    return at, inside, (bits ^ 0x8000).to(tl.int32) >= dropped


@triton.jit
def mixed_bits(z):  # noqa: ANN201
    """SplitMix64 of unsigned 64-bit numbers, as `noise.mixed`."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)
