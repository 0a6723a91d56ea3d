"""Rotations and gates of a base's blocks as one kernel each, in training on a GPU.

Both are recognised by what they compute, on a probe, not by their names; what computes something
else is left as it is. In half precision results differ by rounding: once at the end, where the
model's own operations round after each.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steerproof.model.base import Base

_ROTATION = "apply_rotary_pos_emb"
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@contextmanager
def fused_blocks(base: Base) -> Iterator[int]:
    """Use fused rotations and gates until left; yields how many were put in place.

    Off a GPU, and in float64, nothing is changed.
    """
    placed = 0
    with ExitStack() as stack:
        if base.device.type == "cuda" and base.dtype != torch.float64:
            for module in {sys.modules[type(block).__module__] for block in base.blocks}:
                rotation = getattr(module, _ROTATION, None)
                if rotation is not None and _rotates(rotation, base):
                    setattr(module, _ROTATION, partial(_rotated_pair, rotation))
                    stack.callback(setattr, module, _ROTATION, rotation)
                    placed += 1
            for mlp in base.blocks.modules():
                if _gates(mlp):
                    mlp.forward = partial(_gated_mlp, mlp)
                    stack.callback(delattr, mlp, "forward")
                    placed += 1
        yield placed


def _rotated_pair(
    rotation: Callable[..., Any], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any
) -> tuple[Any, Any]:
    """Queries and keys, rotated; by the model's own function where it is asked for more."""
    if more or cos.ndim != 3 or not cos.shape[-1] == q.shape[-1] == k.shape[-1]:
        return rotation(q, k, cos, sin, *more)
    return _Rotation.apply(q, cos, sin), _Rotation.apply(k, cos, sin)


def _gated_mlp(mlp: Any, x: Tensor) -> Tensor:
    return mlp.down_proj(_Gate.apply(mlp.gate_proj(x), mlp.up_proj(x)))


@torch.no_grad()
def _rotates(rotation: Callable[..., Any], base: Base) -> bool:
    """Whether a model's rotation is the halved one, of all channels."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(base.device, base.dtype)

    q, k, cos, sin = drawn(2, 3, 5, 16), drawn(2, 1, 5, 16), drawn(2, 5, 16), drawn(2, 5, 16)
    try:
        given = rotation(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return all(
        _alike(a, b) for a, b in zip(given, _rotated_pair(rotation, q, k, cos, sin), strict=True)
    )


@torch.no_grad()
def _gates(mlp: nn.Module) -> bool:
    """Whether a module is `down(silu(gate(x)) * up(x))`."""
    if set(mlp._modules) - {"act_fn"} != set(_PROJECTIONS) or "forward" in vars(mlp):
        return False
    if not all(type(mlp._modules[name]) is nn.Linear for name in _PROJECTIONS):
        return False
    gate: Any = mlp._modules["gate_proj"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, gate.in_features, generator=generator).to(gate.weight)
    open_ = F.silu(gate(x)) * mlp.get_submodule("up_proj")(x)
    return _alike(mlp(x), mlp.get_submodule("down_proj")(open_))


def _alike(given: Tensor, ours: Tensor) -> bool:
    rounding = 1e-5 if given.dtype == torch.float32 else 2**-6
    return bool((given - ours).float().norm() <= rounding * given.float().norm())


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        from steerproof.engine.block_kernels import rotated

        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        from steerproof.engine.block_kernels import rotated

        cos, sin = ctx.saved_tensors
        return rotated(grad_outputs[0], cos, sin, back=True), None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        from steerproof.engine.block_kernels import gated

        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        from steerproof.engine.block_kernels import gated_gradients

        gate, up = ctx.saved_tensors
        return gated_gradients(grad_outputs[0], gate, up)
