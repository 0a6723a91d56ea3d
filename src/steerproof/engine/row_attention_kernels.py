"""Causal attention within rows that lie one after another, in Triton, both ways.

FlashAttention's recurrence (Dao et al. 2022, arXiv 2205.14135) with blocks for training rows, of
some hundred tokens: the library's kernels are made for long ones, keep the gradient of queries in
float32 besides, and give that of keys once a query head. Exponentials are to the base 2.
"""

# ruff: noqa: ANN001, ANN202, PLR0913

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 64
"""Queries, or keys, of a program."""


def attended(
    query: Float[Tensor, "tokens heads width"],
    key: Float[Tensor, "tokens kv_heads width"],
    value: Float[Tensor, "tokens kv_heads width"],
    ends: Int[Tensor, " row1"],
    longest: int,
    scale: float,
) -> tuple[Float[Tensor, "tokens heads width"], Float[Tensor, "tokens heads"]]:
    """What every token attends to, and the logarithm of its sum of exponentials, to the base 2.

    Args:
        query: Heads one after another, as a projection gives them.
        key: The same, of as many heads or of a share of them.
        value: The same.
        ends: Where rows begin and the last ends.
        longest: No row has more tokens.
        scale: On the products.
    """
    query, key, value = map(_by_head, (query, key, value))
    tokens, heads, width = query.shape
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    norms = torch.empty(tokens, heads, dtype=torch.float32, device=query.device)
    _attend[(triton.cdiv(longest, _BLOCK), len(ends) - 1, heads)](
        out, norms, query, key, value, ends, scale / math.log(2), heads,
        *_strides(query, key, value), GROUP=heads // key.shape[1], WIDTH=width, BLOCK=_BLOCK,
    )  # fmt: skip
    return out, norms


def attention_gradients(
    grad: Float[Tensor, "tokens heads width"],
    query: Float[Tensor, "tokens heads width"],
    key: Float[Tensor, "tokens kv_heads width"],
    value: Float[Tensor, "tokens kv_heads width"],
    out: Float[Tensor, "tokens heads width"],
    norms: Float[Tensor, "tokens heads"],
    ends: Int[Tensor, " row1"],
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for queries, keys and values, of that of what `attended` gave."""
    grad, query, key, value = map(_by_head, (grad, query, key, value))
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[2]
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key, value))
    inner = torch.empty_like(norms)
    blocks, rows = triton.cdiv(longest, _BLOCK), len(ends) - 1
    strides = _strides(grad, query, key, value)
    given = (grad, query, key, value, ends, scale / math.log(2), scale, heads, *strides)
    sizes = {"GROUP": heads // kv_heads, "WIDTH": width, "BLOCK": _BLOCK}
    _queries_back[(blocks, rows, heads)](dq, inner, out, norms, *given, **sizes)
    # Without loads ahead, which would take the shared memory that more programs can have.
    _keys_back[(blocks, rows, kv_heads)](dk, dv, inner, norms, *given, **sizes, num_stages=1)
    return dq, dk, dv


def _by_head(x: Tensor) -> Tensor:
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(x.stride(0) for x in tensors)


@triton.jit
def _attend(
    out, norms, query, key, value, ends, scale, heads, q_stride, k_stride, v_stride,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid `[blocks of queries, rows, heads]`."""
    first, head = tl.program_id(0) * BLOCK, tl.program_id(2)
    begin, length = _row(ends)
    if first < length:
        at, channel = first + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
        inside = (at < length)[:, None]
        q = _tile(query, begin + at, q_stride, head, channel, inside, WIDTH)
        peak, total = tl.full([BLOCK], -float("inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
        sums = tl.zeros([BLOCK, WIDTH], tl.float32)
        for start in range(0, first + BLOCK, BLOCK):
            seen = start + tl.arange(0, BLOCK)
            known = (seen < length)[:, None]
            k = _tile(key, begin + seen, k_stride, head // GROUP, channel, known, WIDTH)
            v = _tile(value, begin + seen, v_stride, head // GROUP, channel, known, WIDTH)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(seen[None, :] <= at[:, None], scores, -float("inf"))
            higher = tl.maximum(peak, tl.max(scores, 1))
            parts, shrunk = tl.exp2(scores - higher[:, None]), tl.exp2(peak - higher)
            total = total * shrunk + tl.sum(parts, 1)
            sums *= shrunk[:, None]
            sums += tl.dot(parts.to(v.dtype), v, input_precision="ieee")
            peak = higher
        place = (begin + at).to(tl.int64) * heads + head
        tl.store(norms + place, peak + tl.log2(total), mask=at < length)
        place = place[:, None] * WIDTH + channel[None, :]
        tl.store(out + place, (sums / total[:, None]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _queries_back(
    dq, inner, out, norms, grad, query, key, value, ends, scale, true_scale, heads,
    g_stride, q_stride, k_stride, v_stride,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid `[blocks of queries, rows, heads]`; leaves each query's `grad . out` as `inner`."""
    first, head = tl.program_id(0) * BLOCK, tl.program_id(2)
    begin, length = _row(ends)
    if first < length:
        at, channel = first + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
        inside = (at < length)[:, None]
        q = _tile(query, begin + at, q_stride, head, channel, inside, WIDTH)
        g = _tile(grad, begin + at, g_stride, head, channel, inside, WIDTH)
        o = _tile(out, begin + at, heads * WIDTH, head, channel, inside, WIDTH)
        place = (begin + at).to(tl.int64) * heads + head
        norm = tl.load(norms + place, mask=at < length, other=0.0)
        own = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
        tl.store(inner + place, own, mask=at < length)
        sums = tl.zeros([BLOCK, WIDTH], tl.float32)
        for start in range(0, first + BLOCK, BLOCK):
            seen = start + tl.arange(0, BLOCK)
            known = (seen < length)[:, None]
            k = _tile(key, begin + seen, k_stride, head // GROUP, channel, known, WIDTH)
            v = _tile(value, begin + seen, v_stride, head // GROUP, channel, known, WIDTH)
            parts = tl.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * scale - norm[:, None])
            parts = tl.where(seen[None, :] <= at[:, None], parts, 0.0)
            change = parts * (tl.dot(g, tl.trans(v), input_precision="ieee") - own[:, None])
            sums += tl.dot(change.to(k.dtype), k, input_precision="ieee")
        place = place[:, None] * WIDTH + channel[None, :]
        tl.store(dq + place, (sums * true_scale).to(dq.dtype.element_ty), mask=inside)


@triton.jit
def _keys_back(
    dk, dv, inner, norms, grad, query, key, value, ends, scale, true_scale, heads,
    g_stride, q_stride, k_stride, v_stride,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid `[blocks of keys, rows, heads of keys]`: all queries that see a key, of each head."""
    first, kv_head = tl.program_id(0) * BLOCK, tl.program_id(2)
    begin, length = _row(ends)
    if first < length:
        seen, channel = first + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
        known = (seen < length)[:, None]
        k = _tile(key, begin + seen, k_stride, kv_head, channel, known, WIDTH)
        v = _tile(value, begin + seen, v_stride, kv_head, channel, known, WIDTH)
        of_keys, of_values = (
            tl.zeros([BLOCK, WIDTH], tl.float32),
            tl.zeros([BLOCK, WIDTH], tl.float32),
        )
        for member in range(GROUP):
            head = kv_head * GROUP + member
            for start in range(first, length, BLOCK):
                at = start + tl.arange(0, BLOCK)
                inside = (at < length)[:, None]
                q = _tile(query, begin + at, q_stride, head, channel, inside, WIDTH)
                g = _tile(grad, begin + at, g_stride, head, channel, inside, WIDTH)
                place = (begin + at).to(tl.int64) * heads + head
                norm = tl.load(norms + place, mask=at < length, other=0.0)
                own = tl.load(inner + place, mask=at < length, other=0.0)
                scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale
                sees = (at[None, :] >= seen[:, None]) & (at < length)[None, :]
                parts = tl.where(sees, tl.exp2(scores - norm[None, :]), 0.0)
                of_values += tl.dot(parts.to(g.dtype), g, input_precision="ieee")
                change = parts * (tl.dot(v, tl.trans(g), input_precision="ieee") - own[None, :])
                of_keys += tl.dot(change.to(q.dtype), q, input_precision="ieee")
        place = (begin + seen).to(tl.int64) * (heads // GROUP) + kv_head
        place = place[:, None] * WIDTH + channel[None, :]
        tl.store(dk + place, (of_keys * true_scale).to(dk.dtype.element_ty), mask=known)
        tl.store(dv + place, of_values.to(dv.dtype.element_ty), mask=known)


@triton.jit
def _row(ends):
    """Where this program's row begins, and its length."""
    begin = tl.load(ends + tl.program_id(1))
    return begin, tl.load(ends + tl.program_id(1) + 1) - begin


@triton.jit
def _tile(tensor, token, stride, head, channel, inside, WIDTH: tl.constexpr):
    """`[tokens, channels]` of one head; zeros outside of the row."""
    place = token.to(tl.int64)[:, None] * stride + head * WIDTH + channel[None, :]
    return tl.load(tensor + place, mask=inside, other=0.0)
