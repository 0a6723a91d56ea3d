"""Root-mean-square norms in half precision, in Triton: one pass over the residual each way."""

# ruff: noqa: ANN001, ANN202, PLR0913

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor


def normed(
    x: Float[Tensor, "token width"], gain: Float[Tensor, " width"], eps: float
) -> tuple[Float[Tensor, "token width"], Float[Tensor, " token"]]:
    """`gain * (x r)` with `r = 1 / sqrt(mean(x^2) + eps)`, and r.

    Computed in float32; `x r` is rounded to x's precision before it is multiplied, as models do.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inverse = torch.empty(len(x), dtype=torch.float32, device=x.device)
    if len(x):
        _normed[(len(x),)](y, inverse, x, gain, x.stride(0), eps, **_sizes(x.shape[1]))
    return y, inverse


def gradient(
    dy: Float[Tensor, "token width"],
    x: Float[Tensor, "token width"],
    gain: Float[Tensor, " width"],
    inverse: Float[Tensor, " token"],
) -> Float[Tensor, "token width"]:
    """`r (g dy - n mean(n g dy))` with `n = x r`."""
    dy, x = (each if each.stride(1) == 1 else each.contiguous() for each in (dy, x))
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if len(x):
        _gradient_of_norm[(len(x),)](
            dx, dy, x, gain, inverse, dy.stride(0), x.stride(0), **_sizes(x.shape[1])
        )
    return dx


def _sizes(width: int) -> dict[str, int]:
    padded = triton.next_power_of_2(width)
    return {"WIDTH": width, "PADDED": padded, "num_warps": max(1, min(8, padded // 512))}


@triton.jit
def _normed(y, inverse, x, gain, stride, eps, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    inside = at < WIDTH
    value = tl.load(x + token * stride + at, mask=inside, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps)
    tl.store(inverse + token, r)
    rounded = (value * r).to(y.dtype.element_ty).to(tl.float32)
    scaled = rounded * tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + token * WIDTH + at, scaled.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_of_norm(
    dx, dy, x, gain, inverse, dy_stride, x_stride, WIDTH: tl.constexpr, PADDED: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    inside = at < WIDTH
    r = tl.load(inverse + token)
    n = tl.load(x + token * x_stride + at, mask=inside, other=0.0).to(tl.float32) * r
    grad = tl.load(dy + token * dy_stride + at, mask=inside, other=0.0).to(tl.float32)
    grad *= tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(grad * n, 0) / WIDTH
    tl.store(dx + token * WIDTH + at, (r * (grad - n * mean)).to(dx.dtype.element_ty), mask=inside)
