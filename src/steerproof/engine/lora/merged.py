"""The adapters of a pool as merged weights, for generating in float32 on a CPU.

Where generation is bound by arithmetic, `x (W + s B A)^T` costs one matrix product and
`x W^T + s (x A^T) B^T` three, two of them thin. Each adapter's sum is computed in float64 and
rounded once, so it differs from the separate products by rounding alone. In bfloat16 that rounding
would lose most of a small update: there, and on a GPU, the products stay separate.

Layers with a common input (`packed.py`) become one product with their weights side by side.

The base's own weights are never written to.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from steerproof.engine.lora.packed import packed_modules, wrapped_packed
from steerproof.engine.lora.pool import LoraPool, bare_linear
from steerproof.engine.lora.products import grouped_product
from steerproof.engine.lora.weights import Site

_SHARE_OF_MEMORY = 0.125


def mergeable(pool: LoraPool) -> bool:
    """Whether merged weights are exact enough, useful, and fit into an eighth of free memory."""
    if pool.base.dtype != torch.float32 or pool.base.device.type != "cpu":
        return False
    numbers = sum(site.inputs * site.outputs for site in pool.sites)
    room = _SHARE_OF_MEMORY * psutil.virtual_memory().available
    return 4 * numbers * len(pool.loaded) <= room


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedWeights:
    """The merged weights of layers that have their input in common."""

    places: tuple[int, ...]
    """The layers, by their place among the pool's sites."""
    weights: Float[Tensor, "adapters inputs outputs"]
    """Of each loaded adapter, by slot, the layers' `W + s B A`, transposed and side by side."""


def _merged_weights(pool: LoraPool) -> list[MergedWeights]:
    """The merged weights of every layer and adapter. The pool must not be attached."""
    slots = sorted(pool.loaded)
    found = []
    for places in packed_modules(pool):
        weights = torch.cat([_merged(pool, place, slots) for place in places], dim=2)
        found.append(MergedWeights(places=places, weights=weights))
    return found


@contextmanager
def merged(pool: LoraPool) -> Iterator[None]:
    """Like `pool.attach()`, with merged weights; adapters loaded while inside are not seen.

    Raises:
        ModelError: A pool is attached to one of the layers already.
    """
    pool.check_detached()
    products = [(one.places, _MergedProduct(pool, one)) for one in _merged_weights(pool)]
    with wrapped_packed(pool, products):
        yield


class _MergedProduct:
    """Layers with a common input, as one product."""

    def __init__(self, pool: LoraPool, shared: MergedWeights) -> None:
        self._pool = pool
        self._weights = shared.weights
        # A slot that holds no adapter has no rows: where the slots before it end, it ends too.
        self._loaded = torch.tensor(sorted(pool.loaded)) - 1
        self._sites = [pool.sites[place] for place in shared.places]
        self._sizes = [site.outputs for site in self._sites]
        self._bias = _bias(self._sites)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """What each layer computes, `[rows, seq, out]`."""
        return self._product(x).split(self._sizes, dim=-1)

    def _product(self, x: Tensor) -> Tensor:
        routing = self._pool.routing_for(x)
        rows, seq, _ = x.shape
        bare, size = routing.bare, sum(self._sizes)
        if bare == rows:
            return self._bare(x)
        tokens = x[bare:].reshape((rows - bare) * seq, -1)
        ends = routing.row_ends[self._loaded] * seq
        y = grouped_product(tokens, self._weights, ends).view(rows - bare, seq, size)
        if self._bias is not None:
            y += self._bias
        return torch.cat([self._bare(x[:bare]), y]) if bare else y

    def _bare(self, x: Tensor) -> Tensor:
        return torch.cat([bare_linear(site.module, x) for site in self._sites], dim=-1)


def _bias(sites: Sequence[Site]) -> Tensor | None:
    """The biases of some layers side by side, zero for a layer without; None if all are without."""
    biases = [cast(Tensor | None, site.module.bias) for site in sites]
    if all(bias is None for bias in biases):
        return None
    weight = cast(Tensor, sites[0].module.weight)
    zeros = [weight.new_zeros(site.outputs) for site in sites]
    return torch.cat([zero if b is None else b for b, zero in zip(biases, zeros, strict=True)])


def _merged(pool: LoraPool, place: int, slots: Sequence[int]) -> Tensor:
    """`W + s B A` of one layer for some adapters, transposed: `[adapters, in, out]`."""
    site = pool.sites[place]
    own = cast(Tensor, site.module.weight).detach()
    own = own if isinstance(site.module, Conv1D) else own.T
    index = torch.tensor(slots) - 1
    a, b = (stack[index].double() for stack in pool.stacks[place])
    return torch.baddbmm(own.double(), a.mT, b, alpha=pool.spec.scaling).to(own.dtype)
