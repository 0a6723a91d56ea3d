"""What other people's code does with a vector, written from their definition: block by block."""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from steerproof.model.base import Base
from steerproof.model.steering import Push, Steering

IDS = torch.tensor([[5, 17, 203, 9, 44, 45], [8, 8, 90, 3, 2, 1]])


def added(base: Base, vectors: Mapping[int, Tensor]) -> Tensor:
    """Logits where a vector is added to the output of some blocks, at every token.

    The model's own blocks are called, one after another, with nothing attached to them.
    """
    handles = []
    for block, vector in vectors.items():

        def add(_module, _args, output, vector=vector):
            if isinstance(output, tuple):
                return (output[0] + vector, *output[1:])
            return output + vector

        handles.append(base.blocks[block].register_forward_hook(add))
    try:
        with torch.no_grad():
            return base.model(IDS).logits
    finally:
        for handle in handles:
            handle.remove()


def pushed(base: Base, *pushes: Push) -> Tensor:
    """Logits under steerproof's pushes, one after another in a steering of its own each."""
    with ExitStack() as stack, torch.no_grad():
        for push in pushes:
            steering = Steering(base.blocks, [push], device=base.device, dtype=base.dtype)
            stack.enter_context(steering.attach())
            steering.route(torch.ones(len(IDS), dtype=torch.int64))
        return base.model(IDS).logits


def plain(base: Base) -> Tensor:
    """Logits of the model alone."""
    with torch.no_grad():
        return base.model(IDS).logits
