"""An adapter as a value: its shape, its matrices under PEFT's names, and the layers that carry it.

`y = x W + bias + scaling * (x A^T) B^T` with `scaling = alpha / rank` (Hu et al. 2021, arXiv
2106.09685), or `alpha / sqrt(rank)` for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732). PEFT's files
are in `peft_files`.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.spec.seeds import derived_seed

_PEFT_PREFIX = "base_model.model."
_PARTS = 8
"""Of an adapter, each drawn by a thread."""
_MOST_THREADS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """The shape of an adapter. It has no bias."""

    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...] | None = None
    """Module paths of the linear layers it changes; None for every one in the blocks."""

    @property
    def scaling(self) -> float:
        """The factor on `x A B`."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoraWeights:
    """One adapter, under the names and in the layout of PEFT's file; known by identity."""

    spec: LoraSpec
    tensors: Mapping[str, Tensor]
    """`base_model.model.<path>.lora_A.weight` `[rank, in]`, `...lora_B.weight` `[out, rank]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One linear layer of the blocks."""

    path: str
    module: nn.Module
    inputs: int
    outputs: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.module.parameters()).device

    @property
    def a_key(self) -> str:
        """Name of its A matrix in an adapter file."""
        return f"{_PEFT_PREFIX}{self.path}.lora_A.weight"

    @property
    def b_key(self) -> str:
        """Name of its B matrix in an adapter file."""
        return f"{_PEFT_PREFIX}{self.path}.lora_B.weight"

    @property
    def keys(self) -> tuple[str, str]:
        """Both names."""
        return self.a_key, self.b_key


def lora_sites(base: Base) -> tuple[Site, ...]:
    """Every linear layer of the blocks (`nn.Linear`, or GPT-2's `Conv1D`), by structure.

    Raises:
        ModelError: There is none, or one is of a kind whose product this package does not know
            (quantised, wrapped by PEFT).
    """
    sites = []
    for name, module in base.blocks.named_modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            continue
        path = f"{base.block_path}.{name}"
        if type(module) not in (nn.Linear, Conv1D):
            raise ModelError(f"{path} is a {type(module).__name__}; only plain linear layers work")
        rows, columns = module.weight.shape
        inputs, outputs = (rows, columns) if isinstance(module, Conv1D) else (columns, rows)
        sites.append(Site(path=path, module=module, inputs=inputs, outputs=outputs))
    if not sites:
        raise ModelError(f"no linear layers in {base.block_path}")
    return tuple(sites)


def fresh_weights(sites: Sequence[Site], spec: LoraSpec, seed: int) -> LoraWeights:
    """A new adapter: A uniform in +-1/sqrt(in), as PEFT's Kaiming initialisation, and B zero.

    Each matrix is drawn from (seed, module path), so it is the same in whatever pool it is trained.
    """
    new = next(fresh_adapters(sites, spec, (seed,)))
    tensors = {key: matrix.contiguous() for key, matrix in new.tensors.items()}
    return LoraWeights(spec=spec, tensors=tensors)


def fresh_adapters(
    sites: Sequence[Site], spec: LoraSpec, seeds: Iterable[int], *, ahead: int = 1
) -> Iterator[LoraWeights]:
    """The new adapter of each seed in turn; the next are drawn while one is in hand.

    A new B is one zero over and over, which takes no memory and need not be carried to a GPU.

    One thread draws 100 million numbers a second: half a second an adapter at 7 billion weights.

    Args:
        sites: The layers.
        spec: Shape of the adapters.
        seeds: One an adapter.
        ahead: How many are drawn before they are asked for.
    """
    begun: deque[list[Future[dict[str, Tensor]]]] = deque()
    # No more than numbers are worked on with: workers on a CPU share its cores, and where threads
    # are limited (`ulimit -u`) those that only save time must not be the ones too many.
    with ThreadPoolExecutor(min(_MOST_THREADS, torch.get_num_threads())) as threads:
        for seed in seeds:
            dealt = (sites[start::_PARTS] for start in range(_PARTS))
            begun.append([threads.submit(_drawn, some, spec, seed) for some in dealt])
            if len(begun) > ahead:
                yield _fresh(sites, spec, begun.popleft())
        while begun:
            yield _fresh(sites, spec, begun.popleft())


def _drawn(sites: Sequence[Site], spec: LoraSpec, seed: int) -> dict[str, Tensor]:
    """Each layer's A."""
    drawn = {}
    for site in sites:
        generator = torch.Generator().manual_seed(derived_seed("lora_A", seed, site.path))
        bound = 1.0 / math.sqrt(site.inputs)
        a = torch.empty(spec.rank, site.inputs).uniform_(-bound, bound, generator=generator)
        drawn[site.a_key] = a
    return drawn


def _fresh(
    sites: Sequence[Site], spec: LoraSpec, parts: Iterable[Future[dict[str, Tensor]]]
) -> LoraWeights:
    drawn = {key: a for part in parts for key, a in part.result().items()}
    tensors: dict[str, Tensor] = {}
    for site in sites:
        tensors[site.a_key] = drawn[site.a_key]
        tensors[site.b_key] = torch.zeros(()).expand(site.outputs, spec.rank)
    return LoraWeights(spec=spec, tensors=tensors)


def is_all_zero(matrix: Tensor) -> bool:
    """Whether a matrix is zero over and over, in the memory of one number: as a new adapter's B."""
    return matrix.numel() > 0 and not any(matrix.stride()) and not matrix[0, 0]


def not_finite(weights: LoraWeights) -> list[str]:
    """The tensors that hold NaN or infinite numbers.

    By numpy, in one thread: torch deals such small tensors to all cores, and where two processes do
    so at once their threads wait for each other, 1.8 seconds an adapter in place of 0.02.
    """
    return [key for key, tensor in weights.tensors.items() if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has no bfloat16
    return bool(np.isfinite(known.detach().cpu().numpy()).all())


def check_keys(sites: Sequence[Site], weights: LoraWeights) -> None:
    """Compare an adapter's tensors with what its spec and the base ask for.

    Raises:
        ModelError: Keys missing or unexpected, or a wrong shape.
    """
    paths = {site.path for site in sites}
    targets = paths if weights.spec.targets is None else set(weights.spec.targets)
    if targets - paths:
        raise ModelError(f"the adapter targets {sorted(targets - paths)}, not in the blocks")
    rank = weights.spec.rank
    shapes: dict[str, tuple[int, int]] = {}
    for site in sites:
        if site.path in targets:
            shapes[site.a_key] = (rank, site.inputs)
            shapes[site.b_key] = (site.outputs, rank)
    missing = sorted(set(shapes) - set(weights.tensors))
    unexpected = sorted(set(weights.tensors) - set(shapes))
    if missing or unexpected:
        raise ModelError(
            f"the adapter does not fit the model: {len(missing)} missing keys {missing[:3]},"
            f" {len(unexpected)} unexpected keys {unexpected[:3]}"
        )
    for key, shape in shapes.items():
        if tuple(weights.tensors[key].shape) != shape:
            raise ModelError(f"{key} is {tuple(weights.tensors[key].shape)}, not {shape}")
