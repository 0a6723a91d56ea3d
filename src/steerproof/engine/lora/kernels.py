"""The adapters' products on a GPU, in Triton: two kernels for layers with a common input.

They are Punica's shrink and expand (Chen et al. 2023, arXiv 2310.18547; S-LoRA, Sheng et al. 2023,
arXiv 2311.03285, has them for unlike ranks). A library's grouped products take four launches a
layer and most of a small batch's step. Here a tile of neighbouring tokens is multiplied with each
adapter that has a token in it: as rows are ordered by adapter, that is mostly one. Triton's
functions are translated from their source, so inside of them there is no type but Triton's.
"""

# ruff: noqa: ANN001, ANN202, PLR0913

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

MOST_LAYERS = 3
"""Layers that one call serves."""
_LEAST = 16  # Dot products want at least so many of everything.
_SINGLE_TOKENS, _FEW_TOKENS = 16, 256
_SMALL_TILE, _LARGE_TILE = 16, 64
_INPUTS, _OUTPUTS = 128, 128
# Programs that occupy the device, and parts of a long sum that are added up at the end.
_PROGRAMS, _MOST_PARTS = 256, 32
# Blocks of outputs of a program, where there are programs enough: each reads the thin product.
_SPAN = 4
_WARPS = 4


def add_adapters(
    ys: Sequence[Float[Tensor, "rows seq _"]],
    x: Float[Tensor, "rows seq inputs"],
    stacks: Sequence[tuple[Float[Tensor, "slots rank inputs"], Float[Tensor, "slots rank _"]]],
    slots: Int[Tensor, " rows"],
    scaling: float,
) -> None:
    """`y += scaling * (x A[slot]^T) B[slot]`, in place; rows of slot 0 are left as they are.

    Args:
        ys: What the frozen layers gave, at most `MOST_LAYERS`; contiguous.
        x: Their input.
        stacks: All adapters' A and B for each of the layers, as views of one `[slots, all]`; slot 0
            is never read.
        slots: Ascending.
        scaling: The adapters' common factor.
    """
    rows, seq, inputs = x.shape
    x, tokens, layers = x.contiguous(), rows * seq, len(ys)
    rank, stride = stacks[0][0].shape[1], stacks[0][0].stride(0)
    wide = max(_LEAST, triton.next_power_of_2(rank))
    tile = _SMALL_TILE if tokens <= _FEW_TOKENS else _LARGE_TILE
    # The long sums of few tokens are faster one by one than in a tile of as many adapters.
    alone = 1 if tokens <= _SINGLE_TOKENS else tile
    tiles, sums = triton.cdiv(tokens, tile), triton.cdiv(tokens, alone)
    parts = min(_MOST_PARTS, _power_of_2_within(_PROGRAMS // (sums * layers)))
    thin = torch.empty(layers, parts, tokens, wide, dtype=torch.float32, device=x.device)
    common = {"RANK": rank, "WIDE": wide, "num_warps": _WARPS}
    a, b = (_padded(each) for each in zip(*stacks, strict=True))
    _shrink[(sums, parts, layers)](
        thin, x, *a, slots, tokens, seq, inputs, stride,
        parts, TILE=alone, INPUTS=_INPUTS, **common,
    )  # fmt: skip
    outputs = [y.shape[2] for y in ys] + [0] * (MOST_LAYERS - layers)
    span = _SPAN if tiles * triton.cdiv(max(outputs), _OUTPUTS) > _SPAN * _PROGRAMS else 1
    blocks = [triton.cdiv(size, span * _OUTPUTS) for size in outputs]
    _expand[(tiles, sum(blocks))](
        *_padded(ys), thin, *b, slots, tokens, seq,
        *outputs, *blocks[:2], stride, scaling, parts, span, TILE=tile, OUTPUTS=_OUTPUTS, **common,
    )  # fmt: skip


def _padded(tensors: Sequence[Tensor]) -> list[Tensor]:
    """As many as the kernels take; those beyond the layers are never used."""
    return [*tensors, *[tensors[-1]] * (MOST_LAYERS - len(tensors))]


def _power_of_2_within(number: int) -> int:
    """The largest power of 2 that is no larger; at least 1."""
    return 1 << (max(1, number).bit_length() - 1)


# What changes with the batch is not compiled for: each new value would cost a second.
@triton.jit(do_not_specialize=["tokens", "seq", "parts"])
def _shrink(
    thin, x, a0, a1, a2, slots, tokens, seq, inputs, stride, parts,
    RANK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """`thin = x A[slot]^T` over a part of the inputs, `[layers, parts, tokens, rank]`.

    Grid `[tiles of tokens, parts, layers]`. The sum over the inputs is long and the result thin, so
    it is cut into parts (split-K) that fill the device; `_expand` adds them up, so that nobody
    waits for an atomic, and the order of adding is fixed. In float32, whatever the inputs are.
    """
    part, layer = tl.program_id(1), tl.program_id(2)
    # Layers with a common input have weights of their own: a pointer cannot be indexed.
    if layer == 0:
        a = a0
    elif layer == 1:
        a = a1
    else:
        a = a2
    rank = tl.arange(0, WIDE)
    length = tl.cdiv(tl.cdiv(inputs, parts), INPUTS) * INPUTS
    start, stop = part * length, tl.minimum(inputs, (part + 1) * length)
    first_token = (tl.cast(layer, tl.int64) * parts + part) * tokens
    if TILE == 1:
        # Few tokens: each is of its own adapter, and a dot product would pad it to 16 rows.
        token = tl.program_id(0)
        slot = tl.load(slots + token // seq)
        total = tl.zeros([WIDE], tl.float32)
        if slot > 0:
            base = a + tl.cast(slot, tl.int64) * stride
            for k in range(start, stop, INPUTS):
                at = k + tl.arange(0, INPUTS)
                part_x = tl.load(x + token * inputs + at, mask=at < stop, other=0.0)
                wanted = (rank < RANK)[:, None] & (at < stop)[None, :]
                part_a = tl.load(base + rank[:, None] * inputs + at[None, :], wanted, other=0.0)
                total += tl.sum(part_a.to(tl.float32) * part_x.to(tl.float32)[None, :], 1)
        tl.store(thin + (first_token + token) * WIDE + rank, total)
    else:
        token, slot, first, last = _tile(slots, tokens, seq, TILE)
        sums = tl.zeros([TILE, WIDE], tl.float32)
        # Rows are ordered by adapter, so the adapters of a tile are a short range of slots. Tokens
        # of others are read as zeros, which leaves their sums as they are.
        for s in range(first, last + 1):
            own = slot == s
            if tl.max(own.to(tl.int32), 0) > 0:
                base = a + tl.cast(s, tl.int64) * stride
                for k in range(start, stop, INPUTS):
                    at = k + tl.arange(0, INPUTS)
                    x_at = x + token[:, None] * inputs + at[None, :]
                    tile_x = tl.load(x_at, own[:, None] & (at < stop)[None, :], other=0.0)
                    wanted = (at < stop)[:, None] & (rank < RANK)[None, :]
                    tile_a = tl.load(base + rank[None, :] * inputs + at[:, None], wanted, other=0.0)
                    sums += tl.dot(tile_x, tile_a, input_precision="ieee")
        place = (first_token + token)[:, None] * WIDE + rank[None, :]
        tl.store(thin + place, sums, mask=(token < tokens)[:, None])


@triton.jit(do_not_specialize=["tokens", "seq", "blocks0", "blocks1", "parts", "span"])
def _expand(
    y0, y1, y2, thin, b0, b1, b2, slots, tokens, seq, outputs0, outputs1, outputs2,
    blocks0, blocks1, stride, scaling, parts, span,
    RANK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """`y += scaling * t B[slot]` for some outputs of a layer, with t the sum of its parts.

    Grid `[tiles of tokens, blocks of outputs of all layers]`. A program reads its thin product
    `[TILE, rank]` once and goes through `span` blocks of outputs with it. Each output is written by
    one program, so `y` is changed in place.
    """
    # The blocks of all layers lie one after another on one axis, for layers are of unlike widths.
    block = tl.program_id(1)
    second, third = block >= blocks0, block >= blocks0 + blocks1
    layer = second.to(tl.int32) + third.to(tl.int32)
    outputs = tl.where(third, outputs2, tl.where(second, outputs1, outputs0))
    block -= tl.where(third, blocks0 + blocks1, tl.where(second, blocks0, 0))
    if layer == 0:
        y, b = y0, b0
    elif layer == 1:
        y, b = y1, b1
    else:
        y, b = y2, b2
    rank = tl.arange(0, WIDE)
    first_part = tl.cast(layer, tl.int64) * parts
    token, slot, first, last = _tile(slots, tokens, seq, TILE)
    t = tl.zeros([TILE, WIDE], tl.float32)
    for part in range(parts):
        place = ((first_part + part) * tokens + token)[:, None] * WIDE + rank[None, :]
        t += tl.load(thin + place, mask=(token < tokens)[:, None], other=0.0)
    for i in range(span):
        at = (block * span + i) * OUTPUTS + tl.arange(0, OUTPUTS)
        sums = tl.zeros([TILE, OUTPUTS], tl.float32)
        wanted = (rank < RANK)[:, None] & (at < outputs)[None, :]
        for s in range(first, last + 1):
            own = slot == s
            if tl.max(own.to(tl.int32), 0) > 0:
                own_b = b + tl.cast(s, tl.int64) * stride
                tile_b = tl.load(own_b + rank[:, None] * outputs + at[None, :], wanted, other=0.0)
                tile_t = tl.where(own[:, None], t, 0.0).to(tile_b.dtype)
                sums += tl.dot(tile_t, tile_b, input_precision="ieee")
        place = y + tl.cast(token, tl.int64)[:, None] * outputs + at[None, :]
        real = (slot > 0)[:, None] & (at < outputs)[None, :]
        before = tl.load(place, mask=real, other=0.0).to(tl.float32)
        tl.store(place, (before + scaling * sums).to(y.dtype.element_ty), mask=real)


@triton.jit
def _tile(slots, tokens, seq, TILE: tl.constexpr):
    """The tokens of this program, the slot of each (0 beyond the last), first and last adapter."""
    token = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slot = tl.load(slots + token // seq, mask=token < tokens, other=0)
    first = tl.min(tl.where(slot > 0, slot, 2147483647), 0)
    return token, slot, first.to(tl.int32), tl.max(slot, 0).to(tl.int32)
