"""GPU kernels, in Triton: attention over blocks, with the writing of keys, and the draw of a token.

They compute what a few lines of torch define (`paged.attention_over_blocks`,
`sampling.sample`), in one pass over the data and in shapes that never change, so that a step can be
captured as a graph. Triton comes with torch where there is a GPU. Its functions are translated from
their source, so inside of them there is no type but Triton's.
"""

# ruff: noqa: ANN001, ANN202, PLR0913, PLR0915

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_ATTENTION_TILE, _ATTENTION_WARPS, _ATTENTION_STAGES = 64, 4, 2
# Programs that occupy a GPU: with fewer, each row's keys are dealt to so many.
_PROGRAMS, _SPLITS = 512, 8
_DRAW_TILE, _DRAW_WARPS = 8192, 32
# Dot products want at least so many rows.
_LEAST_ROWS = 16


def decode_attention(
    query: Float[Tensor, "rows heads width"],
    new_keys: Float[Tensor, "rows kv_heads width"],
    new_values: Float[Tensor, "rows kv_heads width"],
    keys: Float[Tensor, "all_blocks kv_heads block width"],
    values: Float[Tensor, "all_blocks kv_heads block width"],
    table: Int[Tensor, "rows blocks"],
    lengths: Int[Tensor, " rows"],
    scale: float,
) -> Float[Tensor, "rows heads width"]:
    """Write each row's newest key and value to its blocks; then `paged.attention_over_blocks`."""
    rows, heads, width = query.shape
    _, kv_heads, block, _ = keys.shape
    group = heads // kv_heads
    splits = _SPLITS if rows * kv_heads < _PROGRAMS else 1
    out = parts = sums = query.new_empty(query.shape)
    if splits > 1:  # Else nothing is combined, and whatever stands for the parts is not used.
        parts = query.new_empty((splits, rows, heads, width), dtype=torch.float32)
        sums = query.new_empty((2, splits, rows, heads), dtype=torch.float32)
    new = [x if x.stride(2) == 1 else x.contiguous() for x in (query, new_keys, new_values)]
    strides = [x.stride(i) for x in new for i in (0, 1)]
    sizes = {
        "HEADS": heads,
        "GROUP": group,
        "GROUP_PAD": max(_LEAST_ROWS, triton.next_power_of_2(group)),
        "WIDTH": width,
        "WIDTH_PAD": max(_LEAST_ROWS, triton.next_power_of_2(width)),
        "BLOCK": block,
        "TILE": _ATTENTION_TILE,
        "SPLITS": splits,
        "num_warps": _ATTENTION_WARPS,
        "num_stages": _ATTENTION_STAGES,
    }
    of_blocks = keys, values, table, lengths, scale, table.stride(0)
    _attention[(rows, kv_heads, splits)](out, parts, sums, *new, *of_blocks, *strides, **sizes)
    if splits > 1:
        _combine[(rows, heads)](
            out, parts, sums, WIDTH=width, WIDTH_PAD=sizes["WIDTH_PAD"], SPLITS=splits, num_warps=1
        )
    return out


@triton.jit
def _attention(
    out, parts, sums, query, new_keys, new_values, keys, values, table, lengths, scale, table_row,
    query_row, query_head, key_row, key_head, value_row, value_head,
    HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, WIDTH: tl.constexpr,
    WIDTH_PAD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One row's query heads that share a head of keys, over a part of the row's keys.

    Grid `[rows, kv_heads, splits]`. A program holds its `GROUP` queries and goes through its share
    of the row's keys in tiles, by the block table, with a running maximum and sum (the online
    softmax of FlashAttention, Dao et al. 2022, arXiv 2205.14135). With few rows a row's keys are
    split among `SPLITS` programs, whose parts `_combine` adds up (Flash-Decoding, Dao et al. 2023).
    """
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    # g: query heads of the group; d: numbers of a head. Both padded for the dot products.
    g, d = tl.arange(0, GROUP_PAD), tl.arange(0, WIDTH_PAD)
    head = kv_head * GROUP + g
    real, narrow = (g < GROUP)[:, None] & (d < WIDTH)[None, :], d < WIDTH
    own = row * query_row + head[:, None] * query_head + d[None, :]
    q = tl.load(query + own, mask=real, other=0.0)
    own_blocks = table + row * table_row
    # Whole tiles to each split, so that no tile is computed twice; the last splits may have none.
    share = tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE
    newest = length - 1
    # The newest key and value are written by the one program that will read them: no other waits.
    if split == newest // share:
        block = tl.load(own_blocks + newest // BLOCK)
        place = _token(block, newest, kv_head, BLOCK) * WIDTH + d
        _copy(keys + place, new_keys + row * key_row + kv_head * key_head + d, narrow)
        _copy(values + place, new_values + row * value_row + kv_head * value_head + d, narrow)
        tl.debug_barrier()  # This program reads them below, with other threads.
    best = tl.full([GROUP_PAD], -float("inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    result = tl.zeros([GROUP_PAD, WIDTH_PAD], tl.float32)
    for start in range(split * share, tl.minimum(length, (split + 1) * share), TILE):
        at = start + tl.arange(0, TILE)
        # Without this mask the rest of the last block would count, and it was never written.
        inside = at < length
        blocks = tl.load(own_blocks + at // BLOCK, mask=inside, other=0)
        place = _token(blocks, at, kv_head, BLOCK)[:, None] * WIDTH + d[None, :]
        wanted = inside[:, None] & narrow[None, :]
        k = tl.load(keys + place, mask=wanted, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, -float("inf"))
        v = tl.load(values + place, mask=wanted, other=0.0)
        best, total, result = _online_softmax(best, total, result, scores, v)
    mine = row * HEADS + head
    if SPLITS == 1:
        result = result / total[:, None]
        place = mine[:, None] * WIDTH + d[None, :]
        tl.store(out + place, result.to(out.dtype.element_ty), mask=real)
    else:
        # Unnormalised, `[splits, rows, heads, width]`, with each part's maximum and sum beside it.
        rows = tl.num_programs(0)
        mine += split * rows * HEADS
        tl.store(parts + mine[:, None] * WIDTH + d[None, :], result, mask=real)
        tl.store(sums + mine, best, mask=g < GROUP)
        tl.store(sums + SPLITS * rows * HEADS + mine, total, mask=g < GROUP)


@triton.jit
def _copy(to, source, wanted):
    """Copy numbers from one place to another."""
    tl.store(to, tl.load(source, mask=wanted, other=0.0), mask=wanted)


@triton.jit
def _online_softmax(best, total, result, scores, v):
    """Take a tile into account: what was summed so far is rescaled when a larger score turns up.

    Args:
        best: `[queries]`, the largest score so far.
        total: `[queries]`, the sum of all exponentials of scores, less the largest.
        result: `[queries, width]`, the values' sum by these weights.
        scores: `[queries, tile]`, of the tile's keys.
        v: `[tile, width]`, its values.
    """
    higher = tl.maximum(best, tl.max(scores, 1))
    weights = tl.exp(scores - higher[:, None])
    shrink = tl.exp(best - higher)
    result = result * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return higher, total * shrink + tl.sum(weights, 1), result


@triton.jit
def _token(block, at, kv_head, BLOCK: tl.constexpr):
    """Where a token's head of keys is, counted in tokens of one head through all blocks."""
    return (block.to(tl.int64) * tl.num_programs(1) + kv_head) * BLOCK + at % BLOCK


@triton.jit
def _combine(out, parts, sums, WIDTH: tl.constexpr, WIDTH_PAD: tl.constexpr, SPLITS: tl.constexpr):
    """The parts of one query head as one; a part without a key has a largest score of -inf.

    Grid `[rows, heads]`. `exp(best - max)` brings every part to the common maximum.
    """
    heads = tl.num_programs(0) * tl.num_programs(1)
    mine = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    split, d = tl.arange(0, SPLITS), tl.arange(0, WIDTH_PAD)
    place = split * heads + mine
    best, total = tl.load(sums + place), tl.load(sums + SPLITS * heads + place)
    weights = tl.exp(best - tl.max(best, 0))
    wanted = (d < WIDTH)[None, :] & (split >= 0)[:, None]
    each = tl.load(parts + place[:, None] * WIDTH + d[None, :], mask=wanted, other=0.0)
    result = tl.sum(each * weights[:, None], 0) / tl.sum(total * weights, 0)
    tl.store(out + mine * WIDTH + d, result.to(out.dtype.element_ty), mask=d < WIDTH)


def draw(
    logits: Float[Tensor, "branches vocab"],
    states: Int[Tensor, " rows"],
    owners: Int[Tensor, " rows"],
    temperature: float,
    top_p: float,
    floor: float,
) -> Int[Tensor, " rows"]:
    """One token per row from the nucleus, by the definition of `sampling.sample`.

    Args:
        logits: Of any number type.
        states: State of each row's noise, to which a token's id is added.
        owners: Whose logits each row draws from.
        temperature: Divisor of the logits.
        top_p: Mass of the nucleus.
        floor: A probability below which no token can be in the nucleus.

    Returns:
        Token ids; -1 where a row's logits are not finite.
    """
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    drawn = torch.empty_like(states)
    _draw[(len(states),)](
        drawn,
        logits,
        states,
        owners,
        logits.shape[1],
        logits.stride(0),
        temperature,
        top_p,
        floor,
        TILE=_DRAW_TILE,
        num_warps=_DRAW_WARPS,
    )
    return drawn


@triton.jit
def _draw(
    drawn, logits, states, owners, vocab, row_stride, temperature, top_p, floor, TILE: tl.constexpr
):
    """One row's token: Gumbel-max over the nucleus, without a sort (see `sampling`).

    Grid `[rows]`; a program goes through its sequence's logits in tiles. After a pass for the
    softmax each attempt takes two, for the winner and for the mass above it; mostly one will do.
    """
    row = tl.program_id(0)
    logits += tl.load(owners + row) * row_stride
    state = tl.load(states + row).to(tl.uint64)
    lane = tl.arange(0, TILE)
    # The largest logit and the sum of exponentials, lane by lane, in one pass.
    high, parts = tl.full([TILE], -1e30, tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, vocab, TILE):
        x = _scaled(logits, start + lane, vocab, temperature)
        higher = tl.maximum(high, x)
        parts = parts * tl.exp(high - higher) + tl.exp(x - higher)
        high = higher
    peak = tl.max(high, 0)
    total = tl.sum(parts * tl.exp(high - peak), 0)
    finite = (total < float("inf")) & (peak > -1e30)
    # The winner among what is more probable than `low`; outside the nucleus, raise it and repeat.
    low = tl.cast(floor, tl.float32)
    winner = tl.cast(-1, tl.int64)
    again = finite
    while again:
        best, mass = tl.cast(-float("inf"), tl.float64), tl.cast(0.0, tl.float32)
        winner = tl.cast(vocab, tl.int64)
        for start in range(0, vocab, TILE):
            token = start + lane
            x = _scaled(logits, token, vocab, temperature)
            p = tl.exp(x - peak) / total
            # Noise costs two logarithms in float64: only for tiles that hold a candidate.
            if tl.max(p, 0) > low:
                score = tl.where(p > low, x.to(tl.float64) + _gumbel(state, token), -float("inf"))
                top = tl.max(score, 0)
                if top > best:
                    # Of equal scores the lowest id wins, on every device.
                    first = tl.min(tl.where(score == top, token, vocab), 0)
                    best, winner = top, first.to(tl.int64)
                    mass = tl.max(tl.where(token == first, p, 0.0), 0)
        above = tl.zeros([TILE], tl.float32)
        for start in range(0, vocab, TILE):
            x = _scaled(logits, start + lane, vocab, temperature)
            p = tl.exp(x - peak) / total
            above += tl.where(p > mass, p, 0.0)
        again = (top_p < 1.0) & (tl.sum(above, 0) >= top_p)
        low = mass
    tl.store(drawn + row, winner)


@triton.jit
def _scaled(logits, token, vocab, temperature):
    """Logits over the temperature; beyond the vocabulary what no draw can win."""
    x = tl.load(logits + token, mask=token < vocab, other=0.0).to(tl.float32)
    return tl.where(token < vocab, x / temperature, -float("inf"))


@triton.jit
def _gumbel(state, token):
    """Noise of `sampling.gumbel`, bit for bit up to the logarithms."""
    x = state + (token + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    x = x ^ (x >> 31)
    uniform = ((x >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16
    return -tl.log(-tl.log(uniform))
