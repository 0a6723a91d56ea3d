"""How many threads a model is worth on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from steerproof.model.base import Base

_WIDE = 512
"""Width of a model whose matrices are large enough to be shared between threads. Threads that wait
for one another at every product of a smaller one cost five to ten times as much as they save."""


@contextmanager
def worthwhile_threads(base: Base) -> Iterator[None]:
    """While inside, a small model on a CPU is computed by one thread."""
    before = torch.get_num_threads()
    if base.device.type == "cpu" and base.hidden_size < _WIDE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
