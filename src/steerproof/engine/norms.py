"""RMS norms that are not taken apart into powers and means.

On a CPU, autograd's own backward of a root-mean-square norm costs several times the forward, and
its six operations take four times as long as one; on a GPU each of its parts reads and writes the
whole residual in float32, and keeps it for the backward. A norm is recognised by what it computes,
on a probe, not by its name; one that computes something else is left as it is.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steerproof.engine.norm_kernels import rms_norm
from steerproof.model.base import Base

_WIDEST = 16384
"""Numbers of a token that the GPU's kernel takes."""


@contextmanager
def fused_norms(base: Base) -> Iterator[int]:
    """Use fused norms until left; yields how many there are.

    In float32 results differ by rounding. In half precision the norm itself is computed in float32,
    rounded, and multiplied by the gain, as the models that are recognised do. In float64 nothing is
    changed.
    """
    fused = 0
    with ExitStack() as stack:
        if base.dtype != torch.float64:
            forward = _forward if base.dtype == torch.float32 else _fused
            for module in base.model.modules():
                recognised = _gain_and_eps(module)
                if recognised is not None:
                    module.forward = partial(forward, *recognised)
                    stack.callback(delattr, module, "forward")
                    fused += 1
        yield fused


def _forward(gain: Tensor, eps: float, hidden_states: Tensor) -> Tensor:
    if hidden_states.device.type == "cpu" and not torch.is_grad_enabled():
        return rms_norm(hidden_states, gain, eps)
    normed: Any = _RmsNorm.apply(hidden_states, gain, eps)
    return normed


def _fused(gain: Tensor, eps: float, hidden_states: Tensor) -> Tensor:
    if hidden_states.is_cuda and hidden_states.shape[-1] <= _WIDEST:
        normed: Any = _HalfNorm.apply(hidden_states, gain, eps)
        return normed
    return F.rms_norm(hidden_states, hidden_states.shape[-1:], None, eps) * gain


class _HalfNorm(torch.autograd.Function):
    """The same in half precision on a GPU: a kernel each way (`norm_gpu_kernels`)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        from steerproof.engine.norm_gpu_kernels import normed

        flat = x.reshape(-1, x.shape[-1])
        y, inverse = normed(flat, gain, eps)
        ctx.save_for_backward(flat, gain, inverse)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        from steerproof.engine.norm_gpu_kernels import gradient

        flat, gain, inverse = ctx.saved_tensors
        dy = grad_outputs[0]
        return gradient(dy.reshape(flat.shape), flat, gain, inverse).view(dy.shape), None, None


class _RmsNorm(torch.autograd.Function):
    """y = g n, n = x r, r = 1 / sqrt(mean(x^2) + eps); dx = r (g dy - n mean(n g dy))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        inverse = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, gain)
        return normed * gain

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        normed, inverse, gain = ctx.saved_tensors
        grad = grad_outputs[0] * gain
        product = grad * normed
        mean = product.sum(-1, keepdim=True).div_(-grad.shape[-1])
        torch.mul(normed, mean, out=product)
        return grad.add_(product).mul_(inverse), None, None


@torch.no_grad()
def _gain_and_eps(module: nn.Module) -> tuple[Tensor, float] | None:
    """What the norm multiplies by, and its epsilon; None when it is not a plain RMS norm."""
    parameters: dict[str, Any] = module._parameters
    eps: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if set(parameters) != {"weight"} or module._modules or not isinstance(eps, float):
        return None
    weight: Tensor = parameters["weight"]
    if weight.ndim != 1 or "forward" in vars(module):
        return None
    # Small, so that a wrong epsilon shows.
    probe = torch.linspace(-2.0, 1.0, 3 * weight.shape[0], device=weight.device) * eps**0.5
    probe = probe.view(3, -1).to(weight.dtype)
    given = module(probe)
    full = probe.float()
    bare = (full * (full.square().mean(-1, keepdim=True) + eps).rsqrt()).to(weight.dtype)
    exact = weight.dtype == torch.float32
    for gain in (weight, 1.0 + weight) if exact else (weight,):
        # In half precision, to within one unit in the last place.
        if torch.allclose(given, bare * gain, rtol=1e-5 if exact else 2**-8, atol=1e-7):
            return gain.detach(), eps
    return None
