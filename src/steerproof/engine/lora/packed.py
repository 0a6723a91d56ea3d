"""Packed modules: layers that are given one input one after another, as queries, keys, values are.

What they compute can be computed at once, when the first of them is called: on a GPU a step of few
rows spends more time on starting kernels than on computing. Which do is seen on a probe, not told
by names.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from steerproof.engine.lora.pool import LoraPool, bare_linear


@torch.inference_mode()
def packed_modules(pool: LoraPool) -> list[tuple[int, ...]]:
    """The layers by place among the pool's sites, those together that share an input.

    The pool must not be attached.
    """
    calls: list[tuple[int, Tensor, Tensor]] = []

    def probe(place: int, x: Tensor) -> Tensor:
        calls.append((place, x, x.clone()))
        return bare_linear(pool.sites[place].module, x)

    with pool.wrapped(lambda place: partial(probe, place)):
        one = torch.tensor([[pool.base.pad_id]], device=pool.base.device)
        pool.base.model(input_ids=one, use_cache=False)
    groups: list[list[int]] = []
    before: Tensor | None = None
    for place, x, as_given in calls:
        if x is before and torch.equal(x, as_given):
            groups[-1].append(place)
        else:
            groups.append([place])
        before = x
    seen = [place for group in groups for place in group]
    if sorted(seen) == list(range(len(pool.sites))):
        return [tuple(group) for group in groups]
    # A layer is skipped, or called twice: nothing is assumed of this model.
    return [(place,) for place in range(len(pool.sites))]


Product = Callable[[Tensor], Sequence[Tensor]]
"""What layers with a common input `[rows, seq, in]` compute, `[rows, seq, out]` each."""


@contextmanager
def wrapped_packed(
    pool: LoraPool, products: Iterable[tuple[Sequence[int], Product]]
) -> Iterator[None]:
    """Give the pool's layers a common forward, group by group, until left.

    Args:
        pool: Whose layers.
        products: For each group its layers, by place, and what computes them all.

    Raises:
        ModelError: A pool is attached to one of the layers already.
    """
    forwards: dict[int, Callable[[Tensor], Tensor]] = {}
    for places, product in products:
        modules = _PackedModules(product)
        for index, place in enumerate(places):
            forwards[place] = partial(modules.forward, index)
    with pool.wrapped(forwards.__getitem__):
        yield


@contextmanager
def packed(pool: LoraPool) -> Iterator[None]:
    """Like `pool.attach()`, layers with a common input at once.

    Raises:
        ModelError: A pool is attached to one of the layers already.
    """
    pool.check_detached()
    products = [(places, partial(pool.products, places)) for places in packed_modules(pool)]
    with wrapped_packed(pool, products):
        yield


class _PackedModules:
    """Layers with a common input: the first that is called computes for all."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._input: Tensor | None = None
        self._left: dict[int, Tensor] = {}

    def forward(self, index: int, x: Tensor) -> Tensor:
        """What layer `index` of these computes."""
        if x is not self._input or index not in self._left:
            self._input = x
            self._left = dict(enumerate(self._product(x)))
        y = self._left.pop(index)
        if not self._left:
            self._input = None
        return y
