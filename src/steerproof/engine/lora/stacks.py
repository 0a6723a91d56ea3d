"""Adapters in stacks, one slot each: what all of a pool's layers read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steerproof.engine.lora.carried import Room, room_for, to_device, to_host
from steerproof.engine.lora.weights import (
    LoraSpec,
    LoraWeights,
    check_keys,
    is_all_zero,
    lora_sites,
)
from steerproof.errors import ModelError
from steerproof.model.base import Base


class LoraStacks:
    """Stacked adapters of one scaling over one base.

    All of them lie in `shares`, `[slots, parameters]` for each device of the base, one adapter per
    row, and every layer's `A` and `B` are views of the share on its device: an optimiser sees an
    adapter as one vector a device.
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
        devices = list(dict.fromkeys(site.device for site in self.sites))
        sizes = [0] * len(devices)
        self._starts: list[tuple[int, int]] = []
        """Of each site its share, and where it begins there."""
        for site in self.sites:
            share = devices.index(site.device)
            self._starts.append((share, sizes[share]))
            sizes[share] += self.rank * (site.inputs + site.outputs)
        kind = dtype or base.dtype
        with torch.inference_mode(False):
            with_bare = [
                torch.zeros(slots + 1, size, dtype=kind, device=device)
                for size, device in zip(sizes, devices, strict=True)
            ]
        self.shares = [share[1:] for share in with_bare]
        self.stacks = [self.views(self.shares, place) for place in range(len(self.sites))]
        # The same with zeros for the bare base in slot 0.
        self.with_bare = [self.views(with_bare, place) for place in range(len(self.sites))]
        self._loaded: set[int] = set()

    @property
    def dtype(self) -> torch.dtype:
        """The number type of the adapters."""
        return self.shares[0].dtype

    @property
    def loaded(self) -> frozenset[int]:
        """The slots that hold an adapter."""
        return frozenset(self._loaded)

    def views(self, shares: Sequence[Tensor], place: int) -> tuple[Tensor, Tensor]:
        """A `[slots, rank, in]` and B `[slots, rank, out]` of one layer, within its share."""
        site, (share, start) = self.sites[place], self._starts[place]
        flat = shares[share]
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
        for share in self.shares:
            share[slot - 1].zero_()
        rank = weights.spec.rank
        for places, share in zip(self._dealt(), self.shares, strict=True):
            keys = [key for place in places for key in self.sites[place].keys]
            some = {key: weights.tensors[key] for key in keys if key in weights.tensors}
            given = {key: matrix for key, matrix in some.items() if not is_all_zero(matrix)}
            there = to_device(given, share.device)
            for place in places:
                site, (stack_a, stack_b) = self.sites[place], self.stacks[place]
                if site.a_key in there:
                    stack_a[slot - 1, :rank].copy_(there[site.a_key])
                if site.b_key in there:
                    across = there[site.b_key].T  # Turned there: a CPU takes long for it.
                    across = across if factor == 1.0 else across.double() * factor
                    stack_b[slot - 1, :rank].copy_(across)
        self._loaded.add(slot)

    def room(self) -> tuple[Room, ...]:
        """Make memory ready that `read` can put an adapter into, a piece for each share."""
        pieces = zip(self._dealt(), self.shares, strict=True)
        return tuple(
            room_for(self.spec.rank * self._numbers(places), self._read_dtype, share.device)
            for places, share in pieces
        )

    @torch.no_grad()
    def read(self, slot: int, room: Sequence[Room] = ()) -> LoraWeights:
        """The adapter in a slot, as float32 on the CPU (float64 from a float64 pool).

        Args:
            slot: Its slot.
            room: Memory for it, which it keeps, as `room` gives it.

        Raises:
            ModelError: No such slot.
        """
        self._check_slot(slot)
        rank, tensors = self.spec.rank, dict[str, Tensor]()
        for number, places in enumerate(self._dealt()):
            values = {}
            for place in places:
                site, (stack_a, stack_b) = self.sites[place], self.stacks[place]
                values[site.a_key] = stack_a[slot - 1, :rank]
                values[site.b_key] = stack_b[slot - 1, :rank].T
            tensors |= to_host(values, self._read_dtype, room[number] if room else None)
        return LoraWeights(spec=self.spec, tensors=tensors)

    @property
    def _read_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def _numbers(self, places: Sequence[int]) -> int:
        """Of an adapter of rank one in some layers."""
        return sum(self.sites[place].inputs + self.sites[place].outputs for place in places)

    def _dealt(self) -> list[list[int]]:
        """The layers in each share, by place among the sites."""
        dealt: list[list[int]] = [[] for _ in self.shares]
        for place, (share, _) in enumerate(self._starts):
            dealt[share].append(place)
        return dealt

    def _check_slot(self, slot: int) -> None:
        if not 1 <= slot <= self.slots:
            raise ModelError(f"no adapter slot {slot}: the pool has slots 1 to {self.slots}")
