"""The adapters of a pool on a GPU, for generating: layers with a common input at once.

A step of few rows spends more time on starting kernels than on computing, so queries, keys and
values share the adapters' two kernels, and so do the two layers that open a gated block.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from steerproof.model.lora import LoraPool, bare_linear
from steerproof.model.lora_products import add_on_gpu
from steerproof.model.shared_inputs import computed_together, sharing_an_input


@contextmanager
def attached_on_gpu(pool: LoraPool) -> Iterator[None]:
    """Like `pool.attach()`, without gradients.

    Raises:
        ModelError: A pool is attached to one of the layers already.
    """
    pool.check_detached()
    groups = sharing_an_input(pool)
    with computed_together(pool, [(places, partial(_product, pool, places)) for places in groups]):
        yield


def _product(pool: LoraPool, places: Sequence[int], x: Tensor) -> Sequence[Tensor]:
    """What each of some layers with a common input computes."""
    routing = pool.routing_for(x)
    ys = [bare_linear(pool.sites[place].module, x) for place in places]
    stacks = [pool.with_bare[place] for place in places]
    add_on_gpu(ys, x, stacks, routing, pool.spec.scaling)
    return ys
