"""The one adapter layer: many LoRA adapters over one frozen base, mixed in one batch.

Adapters are stacked, `A[slots, rank, in]` and `B[slots, rank, out]` per linear layer of the blocks,
and a row of a batch carries the slot of its adapter:

    y = x W + bias + scaling * (x A[slot]^T) B[slot]      (Hu et al. 2021, arXiv 2106.09685)

with `scaling = alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA (Kalajdzievski 2023, arXiv
2312.03732). Slot 0 is the bare base, exactly: its rows are never touched, or, on a GPU, zero is
added to them. Nothing is merged into the base: in bf16 that would round most of a small update
away. PEFT's files are in `peft_files`.

On a GPU a forward pass may be captured as a graph, which fixes every shape and every choice made in
Python. There the products depend on the routing through tensors alone, which do not move.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerproof.engine.lora.products import Routing, add_on_gpu, added
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.transfer import sent
from steerproof.spec.seeds import derived_seed

PEFT_PREFIX = "base_model.model."


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
    def a_key(self) -> str:
        """Name of its A matrix in an adapter file."""
        return f"{PEFT_PREFIX}{self.path}.lora_A.weight"

    @property
    def b_key(self) -> str:
        """Name of its B matrix in an adapter file."""
        return f"{PEFT_PREFIX}{self.path}.lora_B.weight"


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
    tensors: dict[str, Tensor] = {}
    for site in sites:
        generator = torch.Generator().manual_seed(derived_seed("lora_A", seed, site.path))
        bound = 1.0 / math.sqrt(site.inputs)
        a = torch.empty(spec.rank, site.inputs).uniform_(-bound, bound, generator=generator)
        tensors[site.a_key] = a
        tensors[site.b_key] = torch.zeros(site.outputs, spec.rank)
    return LoraWeights(spec=spec, tensors=tensors)


class LoraPool:
    """Stacked adapters of one scaling over one base.

    All of them lie in `weights [slots, parameters]`, one adapter per row, and every layer's
    `A` and `B` are views of it, so an optimiser sees an adapter as one vector.
    """

    def __init__(
        self, base: Base, *, slots: int, spec: LoraSpec, dtype: torch.dtype | None = None
    ) -> None:
        """Reserve the stacks, all zero.

        Args:
            base: The frozen model.
            slots: Number of adapters; they get slots 1 to `slots`.
            spec: Largest rank, and the scaling of the pool. An adapter with a lower rank is padded
                with zeros; one with another scaling has the quotient put into its B.
            dtype: Of the stacks; the base's when None.

        Raises:
            ModelError: No slot, or a linear layer that cannot carry an adapter.
        """
        if slots < 1:
            raise ModelError(f"a pool needs at least one adapter slot, not {slots}")
        self.base = base
        self.spec = spec
        self.slots = slots
        self.sites = lora_sites(base)
        # Grouped products on a GPU want rows of 16 bytes: round the rank up.
        self.rank = spec.rank if base.device.type == "cpu" else -(-spec.rank // 8) * 8
        sizes = [self.rank * (site.inputs + site.outputs) for site in self.sites]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        kind = {"dtype": dtype or base.dtype, "device": base.device}
        with torch.inference_mode(False):
            with_bare = torch.zeros(slots + 1, sum(sizes), **kind)
            self._row_slots = torch.zeros(0, dtype=torch.int64, device=base.device)
        self.weights = with_bare[1:]
        self.stacks = [self.views(self.weights, place) for place in range(len(self.sites))]
        # The same with zeros for the bare base in slot 0.
        self._with_bare = [self.views(with_bare, place) for place in range(len(self.sites))]
        self._loaded: set[int] = set()
        self._routing: Routing | None = None

    @property
    def loaded(self) -> frozenset[int]:
        """The slots that hold an adapter."""
        return frozenset(self._loaded)

    def views(self, flat: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """A `[slots, rank, in]` and B `[slots, rank, out]` of one layer, within `[slots, all]`."""
        site, start = self.sites[place], self._starts[place]
        middle = start + site.inputs * self.rank
        end = middle + self.rank * site.outputs
        a = flat[:, start:middle].unflatten(1, (self.rank, site.inputs))
        b = flat[:, middle:end].unflatten(1, (self.rank, site.outputs))
        return a, b

    @torch.no_grad()
    def load(self, slot: int, weights: LoraWeights) -> None:
        """Put an adapter into a slot, in place of whatever was there.

        Raises:
            ModelError: No such slot, keys missing or unexpected, a wrong shape, or too high a rank.
        """
        self._check_slot(slot)
        if weights.spec.rank > self.rank:
            raise ModelError(f"rank {weights.spec.rank} does not fit a pool of rank {self.rank}")
        check_keys(self.sites, weights)
        factor = weights.spec.scaling / self.spec.scaling
        self.weights[slot - 1].zero_()
        rank = weights.spec.rank
        for (stack_a, stack_b), site in zip(self.stacks, self.sites, strict=True):
            if site.a_key not in weights.tensors:
                continue
            a, b = weights.tensors[site.a_key], weights.tensors[site.b_key]
            stack_a[slot - 1, :rank].copy_(a)
            stack_b[slot - 1, :rank].copy_(b.T if factor == 1.0 else b.T.double() * factor)
        self._loaded.add(slot)

    @torch.no_grad()
    def read(self, slot: int) -> LoraWeights:
        """The adapter in a slot, as float32 on the CPU (float64 from a float64 pool)."""
        self._check_slot(slot)
        dtype = torch.float64 if self.weights.dtype == torch.float64 else torch.float32
        tensors = {}
        rank = self.spec.rank
        for (stack_a, stack_b), site in zip(self.stacks, self.sites, strict=True):
            a, b = stack_a[slot - 1, :rank], stack_b[slot - 1, :rank]
            tensors[site.a_key] = a.to("cpu", dtype, copy=True).contiguous()
            tensors[site.b_key] = b.T.to("cpu", dtype, copy=True).contiguous()
        return LoraWeights(spec=self.spec, tensors=tensors)

    def route(self, slots: Int[Tensor, "batch"]) -> None:
        """Say which adapter each row of the coming forward passes uses.

        Args:
            slots: Ascending slots, 0 (the bare base) first. On the CPU.

        Raises:
            ModelError: A slot that was not loaded, or slots that are not ascending.
        """
        if bool((slots[1:] < slots[:-1]).any()):
            raise ModelError("adapter slots must be ascending: sort the rows by adapter first")
        present = slots.unique_consecutive().tolist()
        absent = [slot for slot in present if slot not in self._loaded and slot != 0]
        if absent:
            raise ModelError(f"no adapter in slot {absent}; loaded: {sorted(self._loaded)}")
        counts = torch.bincount(slots, minlength=self.slots + 1)
        used = tuple(slot for slot in present if slot)
        self.reserve(len(slots))
        self._row_slots[: len(slots)].copy_(sent(slots, self.base.device))
        self._routing = Routing(
            rows=len(slots),
            bare=int(counts[0]),
            slots=used,
            counts=tuple(int(counts[slot]) for slot in used),
            row_ends=sent(counts[1:].cumsum(0).int(), self.base.device),
            row_slots=self._row_slots[: len(slots)],
            index=_places(used, self.base.device),
        )

    def reserve(self, rows: int) -> None:
        """Make routes of up to so many rows lie in the same memory.

        Whoever captures a forward pass as a graph reserves first: its replays read the slots there.
        """
        if len(self._row_slots) < rows:
            with torch.inference_mode(False):
                self._row_slots = self._row_slots.new_zeros(rows)

    @contextmanager
    def attach(self) -> Iterator["LoraPool"]:
        """Wrap every linear layer of the blocks, or none; on leaving undo these wraps, no others.

        Raises:
            ModelError: A pool is attached to one of the layers already.
        """
        with self.wrapped(lambda place: partial(self._forward, place)):
            yield self

    @contextmanager
    def wrapped(self, forward_of: Callable[[int], Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """Give each layer the forward that `forward_of(place)` returns, until left."""
        self.check_detached()
        with ExitStack() as stack:
            for place, site in enumerate(self.sites):
                site.module.forward = forward_of(place)
                stack.callback(delattr, site.module, "forward")
            self._routing = None
            yield

    def check_detached(self) -> None:
        """Check that no layer has a forward of somebody's.

        Raises:
            ModelError: One has.
        """
        for site in self.sites:
            if "forward" in vars(site.module):
                raise ModelError(f"{site.path} already has an adapter pool attached")

    @property
    def routing(self) -> Routing:
        """The routing in force.

        Raises:
            ModelError: Nothing was routed since the pool was attached.
        """
        if self._routing is None:
            raise ModelError("a forward pass began before its rows were routed: call route()")
        return self._routing

    def routing_for(self, x: Tensor) -> Routing:
        """The routing in force, checked against an input.

        Raises:
            ModelError: Nothing was routed, or for another number of rows.
        """
        routing = self.routing
        if x.ndim != 3 or x.shape[0] != routing.rows:
            raise ModelError(f"{routing.rows} rows routed, but a linear layer got {tuple(x.shape)}")
        return routing

    def products(self, places: Sequence[int], x: Tensor) -> list[Tensor]:
        """What layers with a common input compute, by the routing in force.

        Args:
            places: The layers, by place among the sites.
            x: Their input, `[rows, seq, in]`.
        """
        routing, scaling = self.routing_for(x), self.spec.scaling
        ys = [bare_linear(self.sites[place].module, x) for place in places]
        if x.is_cuda and not torch.is_grad_enabled():
            add_on_gpu(ys, x, [self._with_bare[place] for place in places], routing, scaling)
            return ys
        stacks = [self.stacks[place] for place in places]
        return [added(y, x, *ab, routing, scaling) for y, ab in zip(ys, stacks, strict=True)]

    def _forward(self, place: int, x: Tensor) -> Tensor:
        return self.products((place,), x)[0]

    def _check_slot(self, slot: int) -> None:
        if not 1 <= slot <= self.slots:
            raise ModelError(f"no adapter slot {slot}: the pool has slots 1 to {self.slots}")


def _places(slots: Sequence[int], device: torch.device) -> slice | Tensor:
    if not slots or slots[-1] - slots[0] + 1 == len(slots):
        return slice(slots[0] - 1, slots[-1]) if slots else slice(0, 0)
    return sent(torch.tensor(slots) - 1, device)


def bare_linear(module: nn.Module, x: Tensor) -> Tensor:
    """What the frozen layer itself computes."""
    return type(module).forward(module, x)


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


@torch.no_grad()
def check_adapters_change_logits(
    pool: LoraPool, ids: Sequence[int], slots: Sequence[int]
) -> dict[int, float]:
    """Run one prompt under every adapter and under the bare base, in one batch.

    The pool must be attached. The routing is left as this check set it.

    Returns:
        Slot -> largest absolute change of a last-position logit.

    Raises:
        ModelError: An adapter changes nothing, or gives NaN.
    """
    order = sorted(set(slots))
    rows = torch.tensor([list(ids)] * (len(order) + 1), device=pool.base.device)
    pool.route(torch.tensor([0, *order]))
    output: Any = pool.base.model(input_ids=rows, use_cache=False, logits_to_keep=1)
    logits = output.logits[:, -1].float()
    changes = (logits[1:] - logits[0]).abs().amax(dim=1).tolist()
    dead = [s for s, change in zip(order, changes, strict=True) if not change > 0.0]
    if dead:
        raise ModelError(f"the adapters in slots {dead} do not change the logits: not loaded?")
    return dict(zip(order, changes, strict=True))
