"""The adapters' products in training, in Triton, over tokens laid out in tiles of one adapter each.

Layers with a common input give their input's gradient in one pass. Dropout's mask is hashed where
it is used: no masked copy of an input is written or read, which as operations of their own took
longer than the products. Sums over tokens are added up within a program and then, by atomics, into
the adapters' float32 gradients.
"""

# ruff: noqa: ANN001, ANN202, PLR0913, PLR0915, C901

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from steerproof.engine.lora.dropout_kernels import mixed_bits

TILE = 64
"""Tokens of a tile: all of one adapter."""
MOST_LAYERS = 3
"""Layers that one call serves."""
_LEAST = 16  # Dot products want at least so many of everything.
# Channels and warps of a program, measured on an H100 at widths 576 to 18,944. Two warps multiply
# by instructions that need no operand in shared memory, which masks would have to go through.
_THIN, _WIDEN = (64, 4), (128, 4)
_OUTPUTS_BACK, _OUTPUTS_BACK_WIDE = (64, 4), (128, 8)
_INPUTS_BACK = {1: (64, 2), 2: (32, 2), 3: (32, 2)}
"""By how many layers are summed at once."""
WIDE = 2048
"""Layers of so many channels are bound by arithmetic: adding to what is there costs nothing."""
# Programs of two and of more warps that occupy the device, and the most tiles of one.
_SMALL_PROGRAMS, _PROGRAMS, _MOST_TILES = 4096, 1024, 16

Hashing = tuple[Int[Tensor, " token"], Int[Tensor, " token"], int]
"""Keys and positions of the tokens, and how many of 2^16 draws drop."""


def thin(
    result: Float[Tensor, "layers token wide"],
    x: Float[Tensor, "token width"],
    matrices: Sequence[Float[Tensor, "slots rank width"]],
    tiles: Int[Tensor, " tile"],
    hashing: Hashing | None = None,
    numbers: Sequence[int] = (),
) -> None:
    """`x M[slot]^T` of layers with a common input; zeros where a tile is nobody's.

    Args:
        result: Where to, contiguous, as wide as `wide` says.
        x: The layers' input, rows contiguous.
        matrices: Of each layer, at most `MOST_LAYERS`, and slot, within one `[slots, all]`.
        tiles: The slot, from 1, of every tile; 0 for nobody's.
        hashing: Dropout on the input; None for none.
        numbers: The layers' own, as `dropout.layer_number` gives them.
    """
    keys, places, dropped = hashing or (tiles, tiles, 0)
    channels, warps = _THIN
    _thin[(len(tiles),)](
        result, x, *_three(matrices), tiles, keys, places, *_three(numbers or [0]), x.shape[1],
        x.stride(0), len(x), matrices[0].stride(0), dropped, RANK=matrices[0].shape[1],
        WIDE=result.shape[2], TILE=TILE, CHANNELS=channels, LAYERS=len(matrices),
        MASKED=hashing is not None, num_warps=warps,
    )  # fmt: skip


def widen(
    y: Float[Tensor, "token width"],
    narrow: Float[Tensor, "token wide"],
    matrix: Float[Tensor, "slots rank width"],
    bias: Float[Tensor, " width"] | None,
    tiles: Int[Tensor, " tile"],
    scaling: float,
    *,
    adding: bool,
) -> None:
    """`y += scaling * t B[slot]` of one layer, or `y = scaling * t B[slot] + bias`, in place.

    Args:
        y: What the frozen layer gave, or where to; contiguous.
        narrow: `t`, as `thin` gives it.
        matrix: Of every slot, within one `[slots, all]`.
        bias: The frozen layer's, where nothing is added to.
        tiles: The slot of every tile.
        scaling: The adapters' common factor.
        adding: Whether `y` holds what is added to.
    """
    outputs, (channels, warps) = y.shape[1], _WIDEN
    _widen[(triton.cdiv(outputs, channels), len(tiles))](
        y, narrow, matrix, y if bias is None else bias, tiles, outputs, matrix.stride(0), scaling,
        RANK=matrix.shape[1], WIDE=narrow.shape[1], TILE=TILE, OUTPUTS=channels,
        BIASED=bias is not None, ADDING=adding, num_warps=warps,
    )  # fmt: skip


def outputs_back(
    grad: Float[Tensor, "slots rank width"],
    narrow: Float[Tensor, "token wide"],
    dy: Float[Tensor, "token width"],
    tiles: Int[Tensor, " tile"],
    scaling: float,
) -> None:
    """`dB[slot] += scaling * t^T dy` of one layer, into float32.

    Args:
        grad: Of every slot, within one `[slots, all]`.
        narrow: `t`, as `thin` gives it.
        dy: The gradient of the layer's output, rows contiguous.
        tiles: The slot of every tile.
        scaling: The adapters' common factor.
    """
    channels, warps = _OUTPUTS_BACK_WIDE if dy.shape[1] >= WIDE else _OUTPUTS_BACK
    blocks = triton.cdiv(dy.shape[1], channels)
    span = _span(len(tiles), blocks, _PROGRAMS)
    _outputs_back[(blocks, triton.cdiv(len(tiles), span))](
        grad, narrow, dy, tiles, dy.shape[1], dy.stride(0), len(tiles), grad.stride(0), scaling,
        span, RANK=grad.shape[1], WIDE=narrow.shape[1], TILE=TILE, CHANNELS=channels,
        num_warps=warps,
    )  # fmt: skip


def inputs_back(
    dx: Float[Tensor, "token inputs"] | None,
    grads: Sequence[Float[Tensor, "slots rank inputs"]],
    x: Float[Tensor, "token inputs"],
    narrow: Float[Tensor, "layers token wide"],
    matrices: Sequence[Float[Tensor, "slots rank inputs"]],
    tiles: Int[Tensor, " tile"],
    scaling: float,
    hashing: Hashing | None = None,
    numbers: Sequence[int] = (),
) -> None:
    """`dA[slot] += scaling * dt^T kept(x)` and `dx += scaling * kept(dt A[slot])`, of all layers.

    Args:
        dx: The input's gradient so far, contiguous; None where nobody wants it.
        grads: Of each layer, at most `MOST_LAYERS`, and slot, float32, within one `[slots, all]`.
        x: The layers' common input, contiguous.
        narrow: `dt` of each layer.
        matrices: A of each layer and slot, within one `[slots, all]`.
        tiles: The slot of every tile.
        scaling: The adapters' common factor.
        hashing: Dropout on the input; None for none.
        numbers: The layers' own.
    """
    channels, warps = _INPUTS_BACK[len(grads)]
    inputs, blocks = x.shape[1], triton.cdiv(x.shape[1], channels)
    span = _span(len(tiles), blocks, _SMALL_PROGRAMS)
    keys, places, dropped = hashing or (tiles, tiles, 0)
    _inputs_back[(blocks, triton.cdiv(len(tiles), span))](
        x if dx is None else dx, *_three(grads), x, narrow, *_three(matrices), tiles, keys, places,
        *_three(numbers or [0]), inputs, len(x), len(tiles), grads[0].stride(0),
        matrices[0].stride(0), scaling, dropped, span, RANK=grads[0].shape[1],
        WIDE=narrow.shape[2], TILE=TILE, CHANNELS=channels, LAYERS=len(grads),
        MASKED=hashing is not None, WANTED=dx is not None, num_warps=warps,
    )  # fmt: skip


def wide(rank: int) -> int:
    """How wide a thin product of this rank lies in memory."""
    return max(_LEAST, triton.next_power_of_2(rank))


def _three(items: Sequence[Any]) -> list[Any]:
    """As many as the kernel takes; those beyond the layers are never used."""
    return [*items, *[items[-1]] * (MOST_LAYERS - len(items))]


def _span(tiles: int, blocks: int, programs: int) -> int:
    """Tiles that a program goes through: few where there would be few programs."""
    return max(1, min(_MOST_TILES, tiles * blocks // programs))


# What changes with the batch is not compiled for: each new value would cost a second.
@triton.jit(do_not_specialize=["number0", "number1", "number2", "tokens", "dropped"])
def _thin(
    result, x, m0, m1, m2, tiles, keys, places, number0, number1, number2, width, x_stride, tokens,
    stride, dropped,
    RANK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, CHANNELS: tl.constexpr,
    LAYERS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Grid `[tiles]`."""
    tile = tl.program_id(0)
    slot = tl.load(tiles + tile)
    token, rank = tile * TILE + tl.arange(0, TILE), tl.arange(0, WIDE)
    empty = tl.zeros([TILE, WIDE], tl.float32)
    sums0, sums1, sums2 = empty, empty, empty
    if slot > 0:
        of_slot = (slot - 1).to(tl.int64) * stride
        rows = x + token[:, None].to(tl.int64) * x_stride
        begun0, begun1, begun2 = token, token, token
        if MASKED:
            begun0 = _begun(keys, places, token, number0, width)
            begun1 = _begun(keys, places, token, number1, width)
            begun2 = _begun(keys, places, token, number2, width)
        for start in range(0, width, CHANNELS):
            at = start + tl.arange(0, CHANNELS)
            inside = at < width
            tile_x = tl.load(rows + at[None, :], mask=inside[None, :], other=0.0)
            wanted = inside[:, None] & (rank < RANK)[None, :]
            for layer in tl.static_range(LAYERS):
                m = _of_layer(layer, m0, m1, m2) + of_slot
                kept = tile_x
                if MASKED:
                    begun = _of_layer(layer, begun0, begun1, begun2)
                    keep = _keep(begun, start, dropped, CHANNELS)
                    kept = tl.where(keep, tile_x, 0.0).to(x.dtype.element_ty)
                tile_m = tl.load(m + rank[None, :] * width + at[:, None], mask=wanted, other=0.0)
                grown = tl.dot(kept, tile_m, input_precision="ieee")
                if layer == 0:
                    sums0 += grown
                elif layer == 1:
                    sums1 += grown
                else:
                    sums2 += grown
    place = result + token[:, None].to(tl.int64) * WIDE + rank[None, :]
    next_layer = tokens.to(tl.int64) * WIDE
    tl.store(place, sums0.to(result.dtype.element_ty))
    if LAYERS > 1:
        tl.store(place + next_layer, sums1.to(result.dtype.element_ty))
    if LAYERS > 2:
        tl.store(place + 2 * next_layer, sums2.to(result.dtype.element_ty))


@triton.jit
def _widen(
    y, narrow, matrix, bias, tiles, outputs, stride, scaling,
    RANK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, OUTPUTS: tl.constexpr,
    BIASED: tl.constexpr, ADDING: tl.constexpr,
):  # fmt: skip
    """Grid `[blocks of outputs, tiles]`."""
    block, tile = tl.program_id(0), tl.program_id(1)
    slot = tl.load(tiles + tile)
    token, rank = tile * TILE + tl.arange(0, TILE), tl.arange(0, WIDE)
    at = block * OUTPUTS + tl.arange(0, OUTPUTS)
    change = tl.zeros([TILE, OUTPUTS], tl.float32)
    if slot > 0:
        own = matrix + (slot - 1).to(tl.int64) * stride
        wanted = (rank < RANK)[:, None] & (at < outputs)[None, :]
        tile_m = tl.load(own + rank[:, None] * outputs + at[None, :], mask=wanted, other=0.0)
        t = narrow + token[:, None].to(tl.int64) * WIDE + rank[None, :]
        change = scaling * tl.dot(tl.load(t), tile_m, input_precision="ieee")
    if BIASED:
        change += tl.load(bias + at, mask=at < outputs, other=0.0).to(tl.float32)[None, :]
    if slot > 0 or not ADDING:
        place = y + token[:, None].to(tl.int64) * outputs + at[None, :]
        inside = (token >= 0)[:, None] & (at < outputs)[None, :]
        if ADDING:
            change += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, change.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["count", "span"])
def _outputs_back(
    grad, narrow, dy, tiles, outputs, dy_stride, count, stride, scaling, span,
    RANK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Grid `[blocks of outputs, spans of tiles]`."""
    block, first = tl.program_id(0), tl.program_id(1) * span
    last = tl.minimum(first + span, count)
    rank, at = tl.arange(0, WIDE), block * CHANNELS + tl.arange(0, CHANNELS)
    real = (rank < RANK)[:, None] & (at < outputs)[None, :]
    sums = tl.zeros([WIDE, CHANNELS], tl.float32)
    for tile in range(first, last):
        slot = tl.load(tiles + tile)
        token = tile * TILE + tl.arange(0, TILE)
        t = tl.load(narrow + token[None, :].to(tl.int64) * WIDE + rank[:, None])
        place = dy + token[:, None].to(tl.int64) * dy_stride + at[None, :]
        tile_y = tl.load(place, mask=(at < outputs)[None, :], other=0.0)
        sums += tl.dot(t, tile_y, input_precision="ieee")
        # The last tile of the program, or of an adapter.
        after = tl.load(tiles + tile + 1, mask=tile + 1 < last, other=-1)
        if after != slot:
            if slot > 0:
                into = grad + (slot - 1).to(tl.int64) * stride
                into += rank[:, None] * outputs + at[None, :]
                tl.atomic_add(into, scaling * sums, mask=real, sem="relaxed")
            sums = tl.zeros([WIDE, CHANNELS], tl.float32)


@triton.jit(
    do_not_specialize=["number0", "number1", "number2", "tokens", "count", "dropped", "span"]
)
def _inputs_back(
    dx, g0, g1, g2, x, narrow, m0, m1, m2, tiles, keys, places, number0, number1, number2,
    inputs, tokens, count, g_stride, m_stride, scaling, dropped, span,
    RANK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, CHANNELS: tl.constexpr,
    LAYERS: tl.constexpr, MASKED: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """Grid `[blocks of inputs, spans of tiles]`."""
    start, first = tl.program_id(0) * CHANNELS, tl.program_id(1) * span
    rank, at = tl.arange(0, WIDE), start + tl.arange(0, CHANNELS)
    inside, real = (at < inputs)[None, :], (rank < RANK)[:, None] & (at < inputs)[None, :]
    empty = tl.zeros([WIDE, CHANNELS], tl.float32)
    sums0, sums1, sums2 = empty, empty, empty
    matrix = rank[:, None] * inputs + at[None, :]
    last = tl.minimum(first + span, count)
    for tile in range(first, last):
        slot = tl.load(tiles + tile)
        # Another adapter's, or none: this is the last tile of the program, or of an adapter.
        after = tl.load(tiles + tile + 1, mask=tile + 1 < last, other=-1)
        if slot > 0:
            token = tile * TILE + tl.arange(0, TILE)
            place = token[:, None].to(tl.int64) * inputs + at[None, :]
            tile_x = tl.load(x + place, mask=inside, other=0.0)
            change = tl.zeros([TILE, CHANNELS], tl.float32)
            of_slot = (slot - 1).to(tl.int64) * m_stride + matrix
            for layer in tl.static_range(LAYERS):
                m = _of_layer(layer, m0, m1, m2)
                number = _of_layer(layer, number0, number1, number2)
                row = (layer * tokens + token).to(tl.int64)[:, None]
                tile_t = tl.load(narrow + row * WIDE + rank[None, :])
                kept = tile_x
                if MASKED:
                    begun = _begun(keys, places, token, number, inputs)
                    keep = _keep(begun, start, dropped, CHANNELS)
                    kept = tl.where(keep, tile_x, 0.0).to(x.dtype.element_ty)
                if WANTED:
                    tile_m = tl.load(m + of_slot, mask=real, other=0.0)
                    product = tl.dot(tile_t, tile_m, input_precision="ieee")
                    change += tl.where(keep, product, 0.0) if MASKED else product
                grown = tl.dot(tl.trans(tile_t), kept, input_precision="ieee")
                if layer == 0:
                    sums0 += grown
                elif layer == 1:
                    sums1 += grown
                else:
                    sums2 += grown
            if WANTED:
                before = tl.load(dx + place, mask=inside, other=0.0).to(tl.float32)
                total = (before + scaling * change).to(dx.dtype.element_ty)
                tl.store(dx + place, total, mask=inside)
            if after != slot:
                grad = (slot - 1).to(tl.int64) * g_stride + matrix
                sums0 = _emptied(g0 + grad, scaling * sums0, real)
                if LAYERS > 1:
                    sums1 = _emptied(g1 + grad, scaling * sums1, real)
                if LAYERS > 2:
                    sums2 = _emptied(g2 + grad, scaling * sums2, real)


@triton.jit
def _of_layer(layer: tl.constexpr, first, second, third):
    """Which of the three is this layer's."""
    chosen = first
    if layer == 1:
        chosen = second
    if layer == 2:
        chosen = third
    return chosen


@triton.jit
def _emptied(gradient, sums, wanted):
    """Add sums to a gradient that other programs add to as well, and begin again at zero."""
    tl.atomic_add(gradient, sums, mask=wanted, sem="relaxed")
    return tl.zeros_like(sums)


@triton.jit
def _begun(keys, places, token, number, width):
    """Of each token what its draws for a layer begin from, before a channel is known."""
    key = mixed_bits((tl.load(keys + token) ^ number).to(tl.uint64))
    first = tl.load(places + token).to(tl.int64) * tl.cdiv(width, 4)
    return key + first.to(tl.uint64) * 0x9E3779B97F4A7C15


@triton.jit
def _keep(begun, start, dropped, CHANNELS: tl.constexpr):
    """Which of a tile's elements dropout keeps, `[TILE, CHANNELS]`, by `dropout.keep_mask`.

    A draw of 64 bits is for four channels, 16 bits each: the upper half of a word is compared as
    the whole word is.
    """
    n = (start // 4 + tl.arange(0, CHANNELS // 4)).to(tl.uint64) * 0x9E3779B97F4A7C15
    # The definition compares signed 16-bit numbers; turning the sign bit makes them unsigned.
    draw = mixed_bits(begun[:, None] + n[None, :]) ^ 0x8000800080008000
    low, high = draw.to(tl.uint32), (draw >> 32).to(tl.uint32)
    limit = dropped.to(tl.uint32) << 16
    even = tl.interleave((low << 16) >= limit, (high << 16) >= limit)
    odd = tl.interleave(low >= limit, high >= limit)
    return tl.interleave(even, odd)
