"""The adapters' products on a GPU, in Triton: two kernels a layer, whatever the mix of adapters.

A library's grouped products take four launches and most of a small batch's step. Here a tile of
neighbouring tokens is multiplied with each adapter that has a token in it: as rows are ordered by
adapter, that is mostly one. Triton's functions are translated from their source, so inside of them
there is no type but Triton's.
"""

# ruff: noqa: ANN001, ANN202, PLR0913

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_INPUTS, _OUTPUTS = 128, 128
_LEAST = 16  # Dot products want at least so many of everything.
_FEW_TOKENS, _SMALL_TILE, _LARGE_TILE = 256, 16, 64
_PROGRAMS, _MOST_PARTS = 256, 16


def add_adapters(
    y: Float[Tensor, "rows seq out"],
    x: Float[Tensor, "rows seq inputs"],
    a: Float[Tensor, "slots rank inputs"],
    b: Float[Tensor, "slots rank out"],
    slots: Int[Tensor, " rows"],
    scaling: float,
) -> Tensor:
    """`y += scaling * (x A[slot]^T) B[slot]`, in place; rows of slot 0 are left as they are.

    Args:
        y: What the frozen layer gave; contiguous.
        x: Its input.
        a: All adapters; slot 0 is never read.
        b: The same.
        slots: Ascending.
        scaling: The adapters' common factor.
    """
    rows, seq, inputs = x.shape
    x, tokens, rank = x.contiguous(), rows * seq, a.shape[1]
    wide = max(_LEAST, triton.next_power_of_2(rank))
    tile = _SMALL_TILE if tokens <= _FEW_TOKENS else _LARGE_TILE
    tiles = triton.cdiv(tokens, tile)
    # A long sum is cut into parts, so that few tokens occupy the device too.
    parts = min(_MOST_PARTS, triton.next_power_of_2(max(1, _PROGRAMS // tiles)))
    thin = torch.empty(parts, tokens, wide, dtype=torch.float32, device=x.device)
    common = {"RANK": rank, "WIDE": wide, "TILE": tile, "PARTS": parts, "num_warps": 4}
    _shrink[(tiles, parts)](
        thin, x, a, slots, tokens, seq, inputs, a.stride(0), INPUTS=_INPUTS, **common
    )
    _expand[(tiles, triton.cdiv(y.shape[2], _OUTPUTS))](
        y,
        thin,
        b,
        slots,
        tokens,
        seq,
        y.shape[2],
        b.stride(0),
        scaling,
        OUTPUTS=_OUTPUTS,
        **common,
    )
    return y


@triton.jit
def _shrink(
    thin,
    x,
    a,
    slots,
    tokens,
    seq,
    inputs,
    a_slot,
    RANK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """`x A[slot]^T` over a part of the inputs, `[parts, tokens, rank]`."""
    part = tl.program_id(1)
    token, slot, first, last = _tile(slots, tokens, seq, TILE)
    rank = tl.arange(0, WIDE)
    length = tl.cdiv(tl.cdiv(inputs, PARTS), INPUTS) * INPUTS
    start, stop = part * length, tl.minimum(inputs, (part + 1) * length)
    sums = tl.zeros([TILE, WIDE], tl.float32)
    for s in range(first, last + 1):
        own = slot == s
        if tl.max(own.to(tl.int32), 0) > 0:
            base = a + tl.cast(s, tl.int64) * a_slot
            for k in range(start, stop, INPUTS):
                at = k + tl.arange(0, INPUTS)
                x_wanted = own[:, None] & (at < stop)[None, :]
                part_x = tl.load(
                    x + token[:, None] * inputs + at[None, :], mask=x_wanted, other=0.0
                )
                a_wanted = (at < stop)[:, None] & (rank < RANK)[None, :]
                part_a = tl.load(base + rank[None, :] * inputs + at[:, None], a_wanted, other=0.0)
                sums += tl.dot(part_x, part_a, input_precision="ieee")
    place = (tl.cast(part, tl.int64) * tokens + token)[:, None] * WIDE + rank[None, :]
    tl.store(thin + place, sums, mask=(token < tokens)[:, None])


@triton.jit
def _expand(
    y,
    thin,
    b,
    slots,
    tokens,
    seq,
    outputs,
    b_slot,
    scaling,
    RANK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """`y += scaling * t B[slot]` for a part of the outputs, with t the sum of its parts."""
    token, slot, first, last = _tile(slots, tokens, seq, TILE)
    rank, at = tl.arange(0, WIDE), tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    t = tl.zeros([TILE, WIDE], tl.float32)
    for part in range(PARTS):
        place = (tl.cast(part, tl.int64) * tokens + token)[:, None] * WIDE + rank[None, :]
        t += tl.load(thin + place, mask=(token < tokens)[:, None], other=0.0)
    sums = tl.zeros([TILE, OUTPUTS], tl.float32)
    for s in range(first, last + 1):
        own = slot == s
        if tl.max(own.to(tl.int32), 0) > 0:
            wanted = (rank < RANK)[:, None] & (at < outputs)[None, :]
            base = b + tl.cast(s, tl.int64) * b_slot
            part_b = tl.load(base + rank[:, None] * outputs + at[None, :], mask=wanted, other=0.0)
            part_t = tl.where(own[:, None], t, 0.0).to(part_b.dtype)
            sums += tl.dot(part_t, part_b, input_precision="ieee")
    place = tl.cast(token, tl.int64)[:, None] * outputs + at[None, :]
    wanted = (slot > 0)[:, None] & (at < outputs)[None, :]
    before = tl.load(y + place, mask=wanted, other=0.0).to(tl.float32)
    tl.store(y + place, (before + scaling * sums).to(y.dtype.element_ty), mask=wanted)


@triton.jit
def _tile(slots, tokens, seq, TILE: tl.constexpr):
    """The tokens of this program, the slot of each (0 beyond the last), first and last adapter."""
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slot = tl.load(slots + token // seq, mask=token < tokens, other=0)
    first = tl.min(tl.where(slot > 0, slot, 2147483647), 0)
    return token, slot, first.to(tl.int32), tl.max(slot, 0).to(tl.int32)
