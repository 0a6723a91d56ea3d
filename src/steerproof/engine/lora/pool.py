"""The one adapter layer: many LoRA adapters over one frozen base, mixed in one batch.

Adapters are stacked, `A[slots, rank, in]` and `B[slots, rank, out]` per linear layer of the blocks,
and a row of a batch carries the slot of its adapter:

    y = x W + bias + scaling * (x A[slot]^T) B[slot]      (Hu et al. 2021, arXiv 2106.09685)

as in Punica and S-LoRA (Chen et al. 2023, arXiv 2310.18547; Sheng et al. 2023, arXiv 2311.03285).
Slot 0 is the bare base, exactly: its rows are never touched, or, on a GPU, zero is added to them.
Nothing is merged into the base: in bf16 that would round most of a small update away.

On a GPU a forward pass may be captured as a graph, which fixes every shape and every choice made in
Python. There the products depend on the routing through tensors alone, which do not move.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from steerproof.engine.lora.products import Routing, add_on_gpu, added
from steerproof.engine.lora.stacks import LoraStacks
from steerproof.engine.lora.weights import LoraSpec
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.split import Spread
from steerproof.model.transfer import sent


class LoraPool(LoraStacks):
    """The adapters at work: a model's layers compute with them, each row with its own."""

    def __init__(
        self, base: Base, *, slots: int, spec: LoraSpec, dtype: torch.dtype | None = None
    ) -> None:
        """Reserve the stacks, all zero; arguments and errors are those of `LoraStacks`."""
        super().__init__(base, slots=slots, spec=spec, dtype=dtype)
        with torch.inference_mode(False):
            self._row_slots = torch.zeros(0, dtype=torch.int64, device=base.device)
        self._routing: Spread[Routing] | None = None

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
        absent = [slot for slot in present if slot not in self.loaded and slot != 0]
        if absent:
            raise ModelError(f"no adapter in slot {absent}; loaded: {sorted(self.loaded)}")
        counts = torch.bincount(slots, minlength=self.slots + 1)
        used = tuple(slot for slot in present if slot)
        self.reserve(len(slots))
        self._row_slots[: len(slots)].copy_(sent(slots, self.base.device))
        routing = Routing(
            rows=len(slots),
            bare=int(counts[0]),
            slots=used,
            counts=tuple(int(counts[slot]) for slot in used),
            row_ends=sent(counts[1:].cumsum(0).int(), self.base.device),
            row_slots=self._row_slots[: len(slots)],
            index=_places(used, self.base.device),
        )
        self._routing = Spread(routing, self.base.device)

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
        """The routing in force, at the base's home.

        Raises:
            ModelError: Nothing was routed since the pool was attached.
        """
        return self._routing_on(self.base.device)

    def _routing_on(self, device: torch.device) -> Routing:
        if self._routing is None:
            raise ModelError("a forward pass began before its rows were routed: call route()")
        return self._routing.on(device)

    def routing_for(self, x: Tensor) -> Routing:
        """The routing in force, checked against an input and on its device.

        Raises:
            ModelError: Nothing was routed, or for another number of rows.
        """
        routing = self._routing_on(x.device)
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
            add_on_gpu(ys, x, [self.with_bare[place] for place in places], routing, scaling)
            return ys
        stacks = [self.stacks[place] for place in places]
        return [added(y, x, *ab, routing, scaling) for y, ab in zip(ys, stacks, strict=True)]

    def _forward(self, place: int, x: Tensor) -> Tensor:
        return self.products((place,), x)[0]


def _places(slots: Sequence[int], device: torch.device) -> slice | Tensor:
    if not slots or slots[-1] - slots[0] + 1 == len(slots):
        return slice(slots[0] - 1, slots[-1]) if slots else slice(0, 0)
    return sent(torch.tensor(slots) - 1, device)


def bare_linear(module: nn.Module, x: Tensor) -> Tensor:
    """What the frozen layer itself computes."""
    return type(module).forward(module, x)
