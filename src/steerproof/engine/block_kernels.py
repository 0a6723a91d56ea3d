"""What lies between a block's products, in Triton: rotation of queries and keys, and the gate.

As tensor operations each of them reads and writes its operands several times over, which in a small
model takes longer than the products. Here an element is read and written once, in each direction.
"""

# ruff: noqa: ANN001, ANN202, PLR0913

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_ELEMENTS, _WARPS = 1024, 4


def rotated(
    x: Float[Tensor, "row head seq width"],
    cos: Float[Tensor, "_ seq width"],
    sin: Float[Tensor, "_ seq width"],
    *,
    back: bool,
) -> Float[Tensor, "row head seq width"]:
    """`x cos + rotate_half(x) sin` (RoFormer, arXiv 2104.09864, in its halved form).

    Args:
        x: Queries or keys, in any layout whose last axis is contiguous.
        cos: Of every position, for one row or for each.
        sin: The same.
        back: The gradient's way: the transpose of the rotation.

    Returns:
        Laid out token by token, as projections are.
    """
    rows, heads, seq, width = x.shape
    x = x if x.stride(3) == 1 else x.contiguous()
    cos, sin = cos.contiguous(), sin.contiguous()
    result = torch.empty(rows, seq, heads, width, dtype=x.dtype, device=x.device).transpose(1, 2)
    of_row = seq * width if cos.shape[0] > 1 else 0
    _rotate[(rows * seq,)](
        result, x, cos, sin, *x.stride()[:3], of_row, heads, seq,
        HEADS=triton.next_power_of_2(heads), HALF=width // 2,
        PADDED=triton.next_power_of_2(width // 2), BACK=back, num_warps=_WARPS,
    )  # fmt: skip
    return result


def gated(gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`silu(gate) * up` (SwiGLU, arXiv 2002.05202)."""
    gate, up = gate.contiguous(), up.contiguous()
    result = torch.empty_like(gate)
    count = gate.numel()
    _gate[(triton.cdiv(count, _ELEMENTS),)](
        result, gate, up, count, ELEMENTS=_ELEMENTS, num_warps=_WARPS
    )
    return result


def gated_gradients(
    grad: Float[Tensor, "*shape"], gate: Float[Tensor, "*shape"], up: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The gradients of `gated` for the gate and for what it lets through."""
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
    count = gate.numel()
    _gate_back[(triton.cdiv(count, _ELEMENTS),)](
        of_gate, of_up, grad, gate, up, count, ELEMENTS=_ELEMENTS, num_warps=_WARPS
    )
    return of_gate, of_up


# Each length that is 1, or divisible by 16, or neither would be compiled anew.
@triton.jit(do_not_specialize=["seq"])
def _rotate(
    result, x, cos, sin, row_stride, head_stride, seq_stride, of_row, heads, seq,
    HEADS: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """One token: all its heads, both halves."""
    row, position = tl.program_id(0) // seq, tl.program_id(0) % seq
    head, lane = tl.arange(0, HEADS)[:, None], tl.arange(0, PADDED)[None, :]
    inside = (head < heads) & (lane < HALF)
    x += row.to(tl.int64) * row_stride + position * seq_stride + head * head_stride + lane
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + HALF, mask=inside, other=0.0).to(tl.float32)
    angle = row.to(tl.int64) * of_row + position * 2 * HALF + lane
    known = lane < HALF
    cos_1 = tl.load(cos + angle, mask=known, other=0.0).to(tl.float32)
    cos_2 = tl.load(cos + angle + HALF, mask=known, other=0.0).to(tl.float32)
    sin_1 = tl.load(sin + angle, mask=known, other=0.0).to(tl.float32)
    sin_2 = tl.load(sin + angle + HALF, mask=known, other=0.0).to(tl.float32)
    if BACK:
        left, right = first * cos_1 + second * sin_2, second * cos_2 - first * sin_1
    else:
        left, right = first * cos_1 - second * sin_1, second * cos_2 + first * sin_2
    result += (tl.program_id(0).to(tl.int64) * heads + head) * 2 * HALF + lane
    tl.store(result, left, mask=inside)
    tl.store(result + HALF, right, mask=inside)


@triton.jit
def _gate(result, gate, up, count, ELEMENTS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + at, g * tl.sigmoid(g) * u, mask=inside)


@triton.jit
def _gate_back(of_gate, of_up, grad, gate, up, count, ELEMENTS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside = at < count
    dy = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(g)
    tl.store(of_gate + at, dy * u * open_ * (1.0 + g * (1.0 - open_)), mask=inside)
    tl.store(of_up + at, dy * g * open_, mask=inside)
