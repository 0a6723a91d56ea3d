"""The adapters of a pool as whole weights, for generating in float32 on a CPU.

Where generation is bound by arithmetic, `x (W + s B A)^T` costs one matrix product and
`x W^T + s (x A^T) B^T` three, two of them thin. Each adapter's sum is computed in float64 and
rounded once, so it differs from the separate products by rounding alone. In bfloat16 that rounding
would lose most of a small update: there, and on a GPU, the products stay separate.

The base's own weights are never written to.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import psutil
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from steerproof.model.lora import LoraPool, LoraWeights, Site, bare_linear

_SHARE_OF_MEMORY = 0.125


def fusable(pool: LoraPool) -> bool:
    """Whether whole weights are exact enough, useful, and fit into an eighth of free memory."""
    if pool.base.dtype != torch.float32 or pool.base.device.type != "cpu":
        return False
    numbers = sum(site.inputs * site.outputs for site in pool.sites)
    room = _SHARE_OF_MEMORY * psutil.virtual_memory().available
    return 4 * numbers * len(pool.loaded) <= room


def whole_weights(pool: LoraPool) -> list[Tensor]:
    """Each layer's whole weights, `[adapters, out, in]` in order of their slots."""
    weights = [pool.read(slot) for slot in sorted(pool.loaded)]
    return [torch.stack([_whole(site, w) for w in weights]) for site in pool.sites]


@contextmanager
def fused(pool: LoraPool, wholes: Sequence[Tensor] | None = None) -> Iterator[None]:
    """Like `pool.attach()`, with whole weights; adapters loaded while inside are not seen.

    Args:
        pool: The adapters.
        wholes: `whole_weights` of the pool, where they were computed before.

    Raises:
        ModelError: A pool is attached to one of the layers already.
    """
    place_of = {slot: place for place, slot in enumerate(sorted(pool.loaded))}
    wholes = wholes or whole_weights(pool)
    with pool.wrapped(lambda place: _forward(pool, place, wholes[place], place_of)):
        yield


def _whole(site: Site, weights: LoraWeights) -> Tensor:
    """`W + s B A` of one layer as `[out, in]`."""
    own = cast(Tensor, site.module.weight).detach()
    own = own.T if isinstance(site.module, Conv1D) else own
    if site.a_key not in weights.tensors:
        return own.contiguous()
    a, b = weights.tensors[site.a_key].double(), weights.tensors[site.b_key].double()
    return (own.double() + weights.spec.scaling * (b @ a)).to(own.dtype)


def _forward(
    pool: LoraPool, place: int, wholes: Tensor, place_of: dict[int, int]
) -> Callable[[Tensor], Tensor]:
    site = pool.sites[place]
    module, bias = site.module, cast(Tensor | None, site.module.bias)
    # Views made once: at small sizes making them costs as much as a product.
    upright = [whole.T for whole in wholes.unbind()]

    def forward(x: Tensor) -> Tensor:
        routing = pool.routing_for(x)
        if not routing.slots:
            return bare_linear(module, x)
        seq = x.shape[1]
        tokens = x.reshape(-1, site.inputs)
        y = tokens.new_empty(len(tokens), site.outputs)
        sizes = [count * seq for count in (routing.bare, *routing.counts)]
        (bare, *parts), (bare_out, *outs) = tokens.split(sizes), y.split(sizes)
        if routing.bare:
            bare_out.copy_(bare_linear(module, bare))
        for slot, part, out in zip(routing.slots, parts, outs, strict=True):
            if bias is None:
                torch.mm(part, upright[place_of[slot]], out=out)
            else:
                torch.addmm(bias, part, upright[place_of[slot]], out=out)
        return y.view(*x.shape[:2], site.outputs)

    return forward
