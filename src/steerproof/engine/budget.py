"""How much rides together: adapters in training at once, and tokens in a micro-batch.

Both change speed and memory, never what an adapter becomes (up to rounding).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from steerproof.engine.jobs import Pooling
from steerproof.engine.lora.weights import LoraSpec, lora_sites
from steerproof.engine.memory import unused_bytes
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.split import devices_of

_CPU_TOKENS = 2048
"""Measured on two cores, width 128: fewer and starting costs, more and tensors leave the cache."""
_GPU_TOKENS = (2048, 32768)
"""The first micro-batch, whose memory is measured, and the most that is worth while."""
_CPU_START, _GPU_START = 64, 4096
"""What starting a micro-batch costs, in tokens that could be computed meanwhile: measured on two
cores at width 128, and on an H200 at 7 billion weights, where launching takes a quarter second."""
_MOST_ADAPTERS = 16
"""Enough to find rows of like length; more only takes memory."""
# Weight, gradient and two moments in float32, and the copy that the base's precision needs.
_BYTES_PER_PARAMETER = 18
_ADAPTER_SHARE, _ACTIVATION_SHARE = 0.4, 0.8
_AHEAD_BYTES = 1 << 30
"""Of the host, for first weights."""


def check_pooling(pooling: Pooling) -> None:
    """Check that the numbers asked for are positive.

    Raises:
        ModelError: One is not.
    """
    if pooling.adapters is not None and pooling.adapters < 1:
        raise ModelError(f"at least one adapter must train at once, not {pooling.adapters}")
    if pooling.tokens is not None and pooling.tokens < 1:
        raise ModelError(f"a micro-batch needs at least one token, not {pooling.tokens}")


def adapters_at_once(base: Base, spec: LoraSpec, pooling: Pooling, jobs: int) -> int:
    """Adapters in training at once: what was asked for, or what free memory allows.

    Those that are chosen are as many each time. Adapters that are as long end together, and a few
    that were left for the end would not fill a GPU.
    """
    if pooling.adapters is not None:
        return min(jobs, pooling.adapters)
    most = min(jobs, _most_adapters(base, spec))
    times = -(-jobs // most)
    return -(-jobs // times)


def _most_adapters(base: Base, spec: LoraSpec) -> int:
    """As many as are worth while, or as the memory of a GPU has room for, but at least one."""
    if base.device.type != "cuda":
        return _MOST_ADAPTERS
    parameters = Counter[torch.device]()
    for site in lora_sites(base):
        parameters[site.device] += spec.rank * (site.inputs + site.outputs)
    fits = (
        _ADAPTER_SHARE * unused_bytes(device) / (count * _BYTES_PER_PARAMETER)
        for device, count in parameters.items()
    )
    return max(1, min(_MOST_ADAPTERS, int(min(fits))))


def drawn_ahead(base: Base, spec: LoraSpec, slots: int) -> int:
    """Adapters whose first weights are drawn while others train: a GPU's next ones altogether.

    A CPU draws with the threads that it trains with.
    """
    if base.device.type == "cpu":
        return 1
    each = 4 * spec.rank * sum(site.inputs for site in lora_sites(base))
    return max(1, min(slots, _AHEAD_BYTES // each))


class TokenBudget:
    """Tokens in a micro-batch, padding included."""

    def __init__(self, base: Base, pooling: Pooling, *, twice: bool = False) -> None:
        """Start from what was asked for, else from a size that fits anywhere.

        Args:
            base: The model.
            pooling: What was asked for.
            twice: Memory is taken twice, once outside of captured graphs and once inside.
        """
        self._devices = devices_of(base.model)
        self.start_cost = _GPU_START if base.device.type == "cuda" else _CPU_START
        self._share = _ACTIVATION_SHARE / (2 if twice else 1)
        # Captured, half as many are as fast, and graphs of many shapes fragment their memory.
        self._most = _GPU_TOKENS[1] // (2 if twice else 1)
        self.open = pooling.tokens is None and base.device.type == "cuda"
        """Whether a first pass is to be measured."""
        self.tokens = pooling.tokens or (_GPU_TOKENS[0] if self.open else _CPU_TOKENS)

    @contextmanager
    def measured(self, tokens: int) -> Iterator[None]:
        """Around a first micro-batch on a GPU: what it takes tells how many tokens fit."""
        before = [torch.cuda.memory_allocated(device) for device in self._devices]
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield
        fits = [self._fitting(tokens, *of) for of in zip(self._devices, before, strict=True)]
        self.tokens = max(256, min(self._most, *fits))
        self.open = False

    def _fitting(self, tokens: int, device: torch.device, before: int) -> int:
        """Tokens that fit on a device, where so many took what was measured."""
        taken = torch.cuda.max_memory_allocated(device) - before
        free = unused_bytes(device) + torch.cuda.memory_allocated(device) - before
        return int(self._share * free * tokens / max(1, taken))
