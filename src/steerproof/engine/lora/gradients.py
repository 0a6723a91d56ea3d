"""The training side of the adapter pool: gradients of many adapters in one backward pass.

Autograd would keep a graph node per product and give the frozen layer and the adapter a gradient
of `x` each, to be added up. Here a linear layer with its adapters is one node,

    t = x A^T                   y = x W + bias + scaling * t B
    dt = dy B^T                 dx = dy W^T + scaling * dt A
    dA += scaling * dt^T x      dB += scaling * t^T dy

which adds the adapters' gradients straight into one buffer `[slots, parameters]`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerproof.engine.lora.dropout import Dropout, Mask, NoMask, mask_of
from steerproof.engine.lora.pool import LoraPool
from steerproof.engine.lora.products import thin_product
from steerproof.errors import ModelError
from steerproof.model.split import Spread


class LoraGradients:
    """Trains the adapters of a pool: forward with adapters, backward into `grads`."""

    def __init__(self, pool: LoraPool) -> None:
        """Reserve the gradient buffer, and working copies when the base computes in other bits."""
        self.pool = pool
        with torch.inference_mode(False):
            self.grads = [torch.zeros_like(share) for share in pool.shares]
        self.grad_stacks = [pool.views(self.grads, place) for place in range(len(pool.sites))]
        kind = pool.base.dtype
        self._working = [s if s.dtype == kind else s.to(kind) for s in pool.shares]
        self._stacks = [pool.views(self._working, place) for place in range(len(pool.sites))]
        self._frozen = [_matrix(site.module) for site in pool.sites]
        # What the layers need, by the slots that ride together: these views never move.
        self._layers: dict[tuple[int, ...], list[_Layer]] = {}
        # The first block's input needs no gradient; this makes its output need one all the same.
        self._anchor = torch.zeros((), device=pool.base.device, requires_grad=True)
        self._dropout: Spread[Dropout] | None = None

    def drop(self, dropout: Dropout) -> None:
        """Say what is dropped in the coming passes; until then nothing is."""
        self._dropout = Spread(dropout, dropout.row_keys.device)

    def dropout_on(self, device: torch.device) -> Dropout | None:
        """What is dropped in the coming passes, for layers on a device."""
        return None if self._dropout is None else self._dropout.on(device)

    def refresh(self) -> None:
        """Copy the weights to the base's precision, after they were changed."""
        for working, share in zip(self._working, self.pool.shares, strict=True):
            if working is not share:
                working.copy_(share)

    def route(self, slots: Tensor) -> None:
        """Like `LoraPool.route`; every row has an adapter, every adapter as many rows.

        Raises:
            ModelError: Rows of the bare base, or adapters with different numbers of rows.
        """
        self.pool.route(slots)
        routing = self.pool.routing
        if routing.bare or not routing.even:
            raise ModelError(
                f"training rows must be in equal groups, one per adapter, not {routing.counts} with"
                f" {routing.bare} rows of the bare base"
            )

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Wrap every linear layer of the blocks, or none; on leaving undo these wraps, no others.

        Raises:
            ModelError: A pool is attached already.
        """
        with self.pool.wrapped(lambda place: partial(self._forward, place)):
            yield

    def _forward(self, place: int, x: Tensor) -> Tensor:
        slots = self.pool.routing_for(x).slots
        if slots not in self._layers:
            self._layers[slots] = [self._layer(i, slots) for i in range(len(self.pool.sites))]
        layer = self._layers[slots][place]
        dropout = self.dropout_on(x.device)
        mask, scaling = mask_of(dropout, place, x), layer.scaling
        if dropout is not None:
            scaling *= dropout.scale
        adapted: Any = _AdaptedLinear.apply(x, self._anchor, layer, scaling, mask)
        return adapted

    def _layer(self, place: int, slots: tuple[int, ...]) -> "_Layer":
        weight, bias = self._frozen[place]
        first, last = slots[0] - 1, slots[-1]
        if last - first != len(slots):
            raise ModelError(f"training needs adapters in neighbouring slots, not {slots}")
        a, b = (stack[first:last] for stack in self._stacks[place])
        grad_a, grad_b = (stack[first:last] for stack in self.grad_stacks[place])
        return _Layer(
            weight=weight,
            bias=bias,
            a=a,
            b=b,
            grad_a=grad_a,
            grad_b=grad_b,
            scaling=self.pool.spec.scaling,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One linear layer and the adapters that ride together, as views."""

    weight: Tensor
    """`[out in]`, frozen."""
    bias: Tensor | None
    a: Tensor
    b: Tensor
    grad_a: Tensor
    grad_b: Tensor
    scaling: float


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, _anchor: Tensor, layer: _Layer, scaling: float, mask: Mask
    ) -> Tensor:
        groups = layer.a.shape[0]
        y = F.linear(x, layer.weight, layer.bias)
        inner = mask.kept(x).view(groups, -1, x.shape[-1])
        t = thin_product(inner, layer.a)
        y.view(groups, -1, y.shape[-1]).baddbmm_(t, layer.b, alpha=scaling)
        ctx.layer, ctx.scaling, ctx.mask = layer, scaling, mask
        ctx.save_for_backward(x, t)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        layer: _Layer = ctx.layer
        scaling: float = ctx.scaling
        mask: Mask = ctx.mask
        x, t = ctx.saved_tensors
        groups = layer.a.shape[0]
        dy = grad_outputs[0].reshape(groups, -1, layer.weight.shape[0])
        dt = thin_product(dy, layer.b)
        inner = mask.kept(x).view(groups, -1, x.shape[-1])
        layer.grad_a.add_(torch.bmm(dt.mT, inner), alpha=scaling)
        layer.grad_b.add_(torch.bmm(t.mT, dy), alpha=scaling)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        dx = torch.mm(dy.view(-1, dy.shape[-1]), layer.weight)
        if isinstance(mask, NoMask):
            dx.view(inner.shape).baddbmm_(dt, layer.a, alpha=scaling)
        else:
            mask.add_kept(dx.view(x.shape), torch.bmm(dt, layer.a).view(x.shape), scaling)
        return dx.view(x.shape), None, None, None, None


def _matrix(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """A frozen layer's `[out in]` weight and its bias."""
    parameters: dict[str, Any] = module._parameters
    weight = parameters["weight"]
    return weight.T if isinstance(module, Conv1D) else weight, parameters["bias"]
