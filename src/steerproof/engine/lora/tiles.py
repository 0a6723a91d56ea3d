"""Gradients of many adapters over packed rows: tokens in one line, adapter after adapter.

The algebra is that of `gradients.py`. There every adapter brings as many rows of one padded width;
here rows lie one after another in tiles of `TILE` tokens, each tile one adapter's, so an adapter
may bring as many tokens as it likes. Layers with a common input are one node of the graph: their
input is kept once, and its gradient is summed where it is computed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from steerproof.engine.lora.dropout import Dropout, layer_number
from steerproof.engine.lora.gradients import LoraGradients
from steerproof.engine.lora.packed import packed_modules, wrapped_packed
from steerproof.engine.lora.pool import LoraPool
from steerproof.errors import ModelError
from steerproof.model.split import Spread

TILE = 64
"""Tokens of a tile: all of one adapter."""


class TiledGradients(LoraGradients):
    """Trains the adapters of a pool on packed rows."""

    def __init__(self, pool: LoraPool) -> None:
        """Reserve what `LoraGradients` does; nothing is routed."""
        super().__init__(pool)
        self._groups = packed_modules(pool)
        self.route_tiles(torch.zeros(0, dtype=torch.int32, device=pool.base.device))

    def route_tiles(self, tiles: Int[Tensor, " tile"]) -> None:
        """Say whose the tiles of the coming pass are.

        Args:
            tiles: The slot of each, 0 for nobody's; at the base's home, where it must not move if
                the pass is captured.
        """
        self._tiles = Spread(tiles, tiles.device)

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Wrap every linear layer of the blocks, or none; on leaving undo these wraps, no others.

        Raises:
            ModelError: A pool is attached already.
        """
        self.pool.check_detached()
        layers = [self._tiled_layers(places) for places in self._groups]
        products = [
            (places, partial(self._products, mine))
            for places, mine in zip(self._groups, layers, strict=True)
        ]
        with wrapped_packed(self.pool, products):
            yield

    def _tiled_layers(self, places: Sequence[int]) -> "_Layers":
        frozen = [self._frozen[place] for place in places]
        return _Layers(
            numbers=tuple(layer_number(place) for place in places),
            weights=tuple(weight for weight, _ in frozen),
            biases=tuple(bias for _, bias in frozen),
            a=tuple(self._stacks[place][0] for place in places),
            b=tuple(self._stacks[place][1] for place in places),
            grad_a=tuple(self.grad_stacks[place][0] for place in places),
            grad_b=tuple(self.grad_stacks[place][1] for place in places),
        )

    def _products(self, layers: "_Layers", x: Tensor) -> Sequence[Tensor]:
        tiles = self._tiles.on(x.device)
        tokens = len(tiles) * TILE
        if x.ndim != 3 or x.shape[0] != 1 or x.shape[1] != tokens:
            raise ModelError(f"{tokens} tokens routed, but a linear layer got {tuple(x.shape)}")
        dropout = self.dropout_on(x.device)
        dropout = dropout if dropout is not None and dropout.dropped else None
        scaling = self.pool.spec.scaling * (1.0 if dropout is None else dropout.scale)
        pass_ = _Pass(layers=layers, tiles=tiles, dropout=dropout, scaling=scaling)
        outputs: Any = _TiledLayers.apply(x, self._anchor, pass_)
        return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """Linear layers with a common input, and every slot's adapter, as views."""

    numbers: tuple[int, ...]
    """What tells their masks apart."""
    weights: tuple[Tensor, ...]
    """`[out in]`, frozen."""
    biases: tuple[Tensor | None, ...]
    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    grad_a: tuple[Tensor, ...]
    grad_b: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One pass through such layers."""

    layers: _Layers
    tiles: Tensor
    dropout: Dropout | None
    scaling: float
    """Of the adapters, and what makes up for dropped elements."""


class _TiledLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, _anchor: Tensor, how: _Pass) -> tuple[Tensor, ...]:
        flat, products = x.reshape(-1, x.shape[-1]), _Kernels(how)
        narrow = products.narrowed(flat)
        ys = products.outputs(flat, narrow)
        ctx.how, ctx.shape = how, x.shape
        ctx.save_for_backward(flat, narrow)
        return tuple(y.view(*x.shape[:-1], -1) for y in ys)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None]:
        how: _Pass = ctx.how
        products = _Kernels(how)
        flat, narrow = ctx.saved_tensors
        dys = [grad.reshape(-1, grad.shape[-1]) for grad in grad_outputs]
        back = products.outputs_back(narrow, dys)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(dys[0], how.layers.weights[0])
            for dy, weight in zip(dys[1:], how.layers.weights[1:], strict=True):
                dx.addmm_(dy, weight)
        products.inputs_back(dx, flat, back)
        return None if dx is None else dx.view(ctx.shape), None, None


class _Kernels:
    """The adapters' part of a pass, on a GPU: rows are packed nowhere else."""

    def __init__(self, how: _Pass) -> None:
        from steerproof.engine.lora import tile_kernels  # Triton is not everywhere.

        self._kernels, self._how = tile_kernels, how
        dropout = how.dropout
        self._hashing = None
        if dropout is not None and dropout.places is not None:
            keys, places = dropout.row_keys.flatten(), dropout.places.flatten()
            self._hashing = (keys, places, dropout.dropped)

    def narrowed(self, x: Tensor) -> Tensor:
        """`kept(x) A[slot]^T` of each layer, `[layers, tokens, wide]`."""
        layers, x = self._how.layers, x.contiguous()
        wide = self._kernels.wide(layers.a[0].shape[1])
        result = x.new_empty(len(layers.a), len(x), wide)
        for some in self._parts():
            given = (x, layers.a[some], self._how.tiles, self._hashing, layers.numbers[some])
            self._kernels.thin(result[some], *given)
        return result

    def outputs(self, x: Tensor, narrow: Tensor) -> list[Tensor]:
        """`x W^T + bias + scaling * t B[slot]` of each layer."""
        layers, how, ys = self._how.layers, self._how, []
        each = zip(layers.weights, layers.biases, layers.b, narrow, strict=True)
        for weight, bias, b, t in each:
            fresh = min(weight.shape) >= self._kernels.WIDE
            y = x.new_empty(len(x), len(weight)) if fresh else F.linear(x, weight, bias)
            late = bias if fresh else None
            self._kernels.widen(y, t, b, late, how.tiles, how.scaling, adding=not fresh)
            ys.append(y.addmm_(x, weight.t()) if fresh else y)
        return ys

    def outputs_back(self, narrow: Tensor, dys: Sequence[Tensor]) -> Tensor:
        """Adds the gradients of every B; returns those of the thin products."""
        layers, tiles = self._how.layers, self._how.tiles
        result = torch.empty_like(narrow)
        for layer, dy in enumerate(dys):
            rows = dy if dy.stride(1) == 1 else dy.contiguous()
            self._kernels.thin(result[layer : layer + 1], rows, (layers.b[layer],), tiles)
            given = (layers.grad_b[layer], narrow[layer], rows, tiles, self._how.scaling)
            self._kernels.outputs_back(*given)
        return result

    def inputs_back(self, dx: Tensor | None, x: Tensor, back: Tensor) -> None:
        """Adds the gradients of every A, and what the adapters add to the input's."""
        how, layers = self._how, self._how.layers
        for some in self._parts():
            given = (x.contiguous(), back[some], layers.a[some], how.tiles, how.scaling)
            self._kernels.inputs_back(
                dx, layers.grad_a[some], *given, self._hashing, layers.numbers[some]
            )

    def _parts(self) -> list[slice]:
        """The layers, as many at once as kernels take."""
        most, count = self._kernels.MOST_LAYERS, len(self._how.layers.a)
        return [slice(first, first + most) for first in range(0, count, most)]
