"""A base in half precision, computing in float32: what rounding is measured against."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steerproof.model.base import Base

HALF = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(base: Base) -> Iterator[Base]:
    """The same base with float32 weights and activations, while inside.

    Weights are widened when they are needed, one block at a time, so that a large model need not
    fit twice; afterwards the very same tensors are back. Adapters and pushes have to be float32 as
    well: make them for the base that this yields.
    """
    inside = {id(module) for block in base.blocks for module in block.modules()}
    parts: list[nn.Module] = list(base.blocks)
    parts += [m for m in base.model.modules() if id(m) not in inside and list(m.parameters(False))]
    with ExitStack() as stack:
        for part in parts:
            widen, restore = _swap(part)
            stack.callback(part.register_forward_pre_hook(widen, prepend=True).remove)
            stack.callback(part.register_forward_hook(restore, always_call=True).remove)
        yield replace(base, dtype=torch.float32)


def _swap(part: nn.Module) -> tuple[Callable[..., None], Callable[..., None]]:
    narrow: list[tuple[nn.Parameter, Tensor]] = []

    def widen(*_: Any) -> None:
        for weight in part.parameters():
            narrow.append((weight, weight.data))
            weight.data = weight.data.float()

    def restore(*_: Any) -> None:
        for weight, data in narrow:
            weight.data = data
        narrow.clear()

    return widen, restore
