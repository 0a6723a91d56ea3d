"""The one hook: adds a direction to a decoder block's output, row by row, and proves that it did.

Directions, calibration, training and generation all use it. Each steered layer has a table with
one row per slot; slot 0 pushes nothing. A batch carries a slot per row, and pads are sent to
slot 0. Every zero in a table is stored as *negative* zero, because `x + (-0.0)` is `x` bit for bit
for every `x`, `-0.0` included, whereas `-0.0 + 0.0` is `+0.0`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steerproof.errors import SteeringError
from steerproof.model.push import Push
from steerproof.model.removal import Removals
from steerproof.model.routes import Routes
from steerproof.model.split import Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAudit:
    """What one push was measured to do, averaged over the token positions that were looked at."""

    layer: int
    positions: int
    """Token positions measured."""
    residual_norm: float | None
    """Mean norm of the residual before the push; None when no position was measured."""
    push_norm: float | None
    """Mean norm of the change that arrived, out minus in, in float32."""

    @property
    def ratio(self) -> float | None:
        """`push_norm / residual_norm`, None when undefined."""
        if self.residual_norm is None or self.push_norm is None or self.residual_norm == 0.0:
            return None
        return self.push_norm / self.residual_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringAudit:
    """How often the hook fired and what each push did."""

    firings: dict[int, int]
    """Steered layer -> forward passes through it."""
    parts: tuple[tuple[SlotAudit, ...], ...]
    """For each push what each of its parts did, in the order of the pushes and of the layers."""

    @property
    def slots(self) -> tuple[SlotAudit, ...]:
        """One per push, of its first part: slot s is `slots[s - 1]`."""
        return tuple(parts[0] for parts in self.parts)


class Steering:
    """The pushes, as one table per steered layer, and the hooks that add them.

    Hooks are registered once and driven by buffers that are only written in place, so a compiled
    or captured forward sees every new routing.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        pushes: Sequence[Push],
        *,
        device: torch.device,
        dtype: torch.dtype,
        audit_every: int = 1,
    ) -> None:
        """Build the tables; nothing is attached yet.

        Args:
            blocks: The decoder blocks of the base.
            pushes: Slot s is `pushes[s - 1]`; slot 0 is no push.
            device: Where the model runs, its home if that is several.
            dtype: The residual stream's.
            audit_every: Measure the achieved norms at every so many-th forward of a layer.

        Raises:
            SteeringError: A layer does not exist, or a vector is not finite or of another width.
        """
        check_pushes(pushes, len(blocks))
        if audit_every < 1:
            raise SteeringError(f"audit_every must be at least 1, not {audit_every}")
        self._blocks = blocks
        self._pushes = tuple(pushes)
        self._audit_every = audit_every
        self.layers = tuple(sorted({part.layer for push in pushes for part in push.parts}))
        with torch.inference_mode(False):
            tables = _tables(self._pushes, self.layers, device, dtype)
            self._removals = Removals(_axes(self._pushes, self.layers), tables)
        self._tables = [Spread(table, tables.device) for table in tables]
        self._routes = Routes(len(pushes), device)
        self._counts = _Counts(len(self.layers), len(pushes) + 1, device)
        self._attached = False
        self._replaying = False

    def route(
        self, slots: Int[Tensor, "*batch"], mask: Bool[Tensor, "rows seq"] | None = None
    ) -> None:
        """Say which push each row of the coming forward passes gets.

        Args:
            slots: The slot of each row; 0 for none. With a mask it may be of each position.
            mask: True where a position is a real token; None when every position is. With a mask
                the next forward must have exactly its shape, without one any length will do.

        Raises:
            SteeringError: A slot does not exist, or the mask has another number of rows.
        """
        self._routes.route(slots, mask)

    def reserve(self, rows: int) -> None:
        """Make routes without a mask, of up to so many rows, lie in the same memory.

        Whoever captures a forward pass as a graph reserves first: its replays read the slots there.
        """
        self._routes.reserve(rows)

    @contextmanager
    def attach(self) -> Iterator["Steering"]:
        """Register the hooks, all of them or none; on leaving remove these and no others.

        Raises:
            SteeringError: Attached already; or, on leaving without another error, rows were
                routed and a steered layer never fired.
        """
        if self._attached:
            raise SteeringError("this steering is attached already")
        before = self._counts.firings.clone()
        self._routes.forget()
        with ExitStack() as stack:
            for place, layer in enumerate(self.layers):
                handle = self._blocks[layer].register_forward_hook(self._hook(place))
                stack.callback(handle.remove)
            self._attached = True
            stack.callback(setattr, self, "_attached", False)
            yield self
        fired = (self._counts.firings - before).tolist()
        silent = [layer for layer, count in zip(self.layers, fired, strict=True) if not count]
        if silent and self._routes.known:
            raise SteeringError(
                f"rows were routed but the hook never fired at layer {silent}: the model was not"
                " run, or it bypasses the block's __call__"
            )

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Around `backward()`: what fires in here is a recomputation, pushed alike, not counted."""
        before, self._replaying = self._replaying, True
        try:
            yield
        finally:
            self._replaying = before

    def audit(self) -> SteeringAudit:
        """Read what was counted and measured since this object was made."""
        sums = self._counts.sums.tolist()
        return SteeringAudit(
            firings=dict(zip(self.layers, self._counts.firings.tolist(), strict=True)),
            parts=tuple(
                _seen(push, self.layers, [[layer[slot] for layer in one] for one in sums])
                for slot, push in enumerate(self._pushes, start=1)
            ),
        )

    def audit_of(self, slot: int) -> tuple[SlotAudit, ...]:
        """What each part of the push in a slot was measured to do, of which an audit has all."""
        sums = self._counts.sums[:, :, slot].tolist()
        return _seen(self._pushes[slot - 1], self.layers, sums)

    def _hook(self, place: int) -> Callable[[nn.Module, Any, Any], Any]:
        def push(_module: nn.Module, _args: Any, output: Any) -> Any:
            hidden = block_hidden(output)
            index = self._routes.index_for(hidden, len(self._pushes[0].vector))
            delta = self._tables[place].on(hidden.device).index_select(0, index.flatten())
            steered = hidden + delta.view(*index.shape, hidden.shape[-1])
            steered = self._removals.applied(place, hidden, steered, index)
            if not self._replaying:
                self._count(place, hidden, steered, index)
            return _with_hidden(output, steered)

        return push

    @torch.no_grad()
    def _count(self, place: int, hidden: Tensor, steered: Tensor, index: Tensor) -> None:
        # What is captured as a graph is measured always: a replay cannot choose.
        captured = hidden.is_cuda and torch.cuda.is_current_stream_capturing()
        if self._counts.fired(place) % self._audit_every and not captured:
            return
        exact = torch.promote_types(hidden.dtype, torch.float32)
        before = hidden.detach().to(exact)
        size = torch.linalg.vector_norm(before, dim=-1)
        moved = torch.linalg.vector_norm(steered.detach().to(exact) - before, dim=-1)
        self._counts.measured(place, index.expand(size.shape).flatten(), size, moved)


def _seen(
    push: Push, layers: Sequence[int], sums: Sequence[Sequence[float]]
) -> tuple[SlotAudit, ...]:
    """What each part of a push did, of its positions, residual norms and push norms by layer."""

    def measured(layer: int) -> SlotAudit:
        n, residual, pushed = (one[layers.index(layer)] for one in sums)
        return SlotAudit(
            layer=layer,
            positions=int(n),
            residual_norm=residual / n if n else None,
            push_norm=pushed / n if n else None,
        )

    return tuple(measured(part.layer) for part in push.parts)


class _Counts:
    """What a steering counts."""

    def __init__(self, layers: int, slots: int, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.firings = torch.zeros(layers, dtype=torch.int64, device=device)
            # Positions, norms of the residual, norms of the push.
            self.sums = torch.zeros(3, layers, slots, dtype=torch.float64, device=device)
        self._calls = [0] * layers

    def fired(self, place: int) -> int:
        """Count a firing; returns how many there were before."""
        self.firings[place : place + 1].add_(1)
        self._calls[place] += 1
        return self._calls[place] - 1

    def measured(self, place: int, slots: Tensor, size: Tensor, moved: Tensor) -> None:
        """Add what was measured at some positions, `[positions]` each, on any device."""
        slots, size, moved = (x.to(self.sums.device) for x in (slots, size, moved))
        one = torch.ones((), dtype=torch.float64, device=slots.device).expand(slots.shape)
        positions, residual_norms, push_norms = self.sums[:, place]
        positions.index_add_(0, slots, one)
        residual_norms.index_add_(0, slots, size.flatten().double())
        push_norms.index_add_(0, slots, moved.flatten().double())


@contextmanager
def record(
    blocks: nn.ModuleList, layers: Sequence[int], positions: Int[Tensor, "batch"]
) -> Iterator[dict[int, Float[Tensor, "batch hidden"]]]:
    """Record the residual after some blocks, at one position per row, in float32.

    Attached after a `Steering`, it sees the steered residual. Several forward passes overwrite one
    another: open it once per batch.

    Args:
        blocks: The decoder blocks of the base.
        layers: 0-based block indices.
        positions: The position to read in each row, for example the last prompt token.

    Yields:
        Layer -> residual, filled by the forward pass made inside.

    Raises:
        SteeringError: A layer does not exist, the batch has another size, or, on leaving without
            another error, a layer never fired.
    """
    _check_layers(layers, len(blocks))
    seen: dict[int, Tensor] = {}

    def reader(layer: int) -> Callable[[nn.Module, Any, Any], None]:
        def read(_module: nn.Module, _args: Any, output: Any) -> None:
            hidden = block_hidden(output)
            if hidden.shape[0] != positions.shape[0]:
                raise SteeringError(
                    f"{positions.shape[0]} positions to record, but a batch of {hidden.shape[0]}"
                )
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            seen[layer] = hidden.detach()[rows, positions.to(hidden.device)].float()

        return read

    with ExitStack() as stack:
        for layer in sorted(set(layers)):
            handle: RemovableHandle = blocks[layer].register_forward_hook(reader(layer))
            stack.callback(handle.remove)
        yield seen
    silent = sorted(set(layers) - set(seen))
    if silent:
        raise SteeringError(f"no forward pass went through layer {silent}: nothing was recorded")


def block_hidden(output: Any) -> Tensor:
    """The residual stream in what a decoder block returned.

    Raises:
        SteeringError: The block returned something else than a tensor or a tuple that begins with
            one. It is never passed through as if it had been steered.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    raise SteeringError(
        f"a decoder block returned {type(output).__name__}; only a tensor, or a tuple whose first"
        " item is one, can be steered"
    )


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    if isinstance(output, Tensor):
        return hidden
    items = (hidden, *output[1:])
    return type(output)._make(items) if hasattr(output, "_make") else type(output)(items)


def _check_layers(layers: Sequence[int], depth: int) -> None:
    absent = sorted({layer for layer in layers if not 0 <= layer < depth})
    if absent:
        raise SteeringError(f"no layer {absent}: the model has layers 0 to {depth - 1}")


def check_pushes(pushes: Sequence[Push], depth: int) -> None:
    """Check that pushes can be added to a model of so many blocks.

    Raises:
        SteeringError: A layer does not exist, or a vector is not finite or of another width.
    """
    _check_layers([part.layer for push in pushes for part in push.parts], depth)
    widths = {part.vector.shape[0] for push in pushes for part in push.parts}
    if len(widths) > 1:
        raise SteeringError(f"pushes of different widths: {sorted(widths)}")
    bad = [
        slot
        for slot, push in enumerate(pushes, start=1)
        if not all(bool(part.vector.isfinite().all()) for part in push.parts)
    ]
    if bad:
        raise SteeringError(f"the push in slot {bad} holds NaN or infinite values")
    for part in (part for push in pushes for part in push.parts):
        if part.removes < 0 or (part.removes and not bool(part.vector.any())):
            raise SteeringError(
                f"a share of {part.removes:g} of the component along a vector of norm "
                f"{float(part.vector.norm()):.3g} cannot be removed: the share must be above 0, "
                "and the vector must have a length"
            )


def _axes(pushes: Sequence[Push], layers: Sequence[int]) -> list[list[Tensor | None]]:
    """For each steered layer and slot what is removed there; slot 0 removes nothing."""
    axes: list[list[Tensor | None]] = [[None] * (len(pushes) + 1) for _ in layers]
    for slot, push in enumerate(pushes, start=1):
        for part in push.parts:
            axes[layers.index(part.layer)][slot] = part.axis
    return axes


def _tables(
    pushes: Sequence[Push], layers: Sequence[int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    """`[steered layers, slots, hidden]`, zero (negative zero) where a slot is of another layer."""
    width = pushes[0].vector.shape[0] if pushes else 0
    tables = torch.full((len(layers), len(pushes) + 1, width), -0.0, dtype=dtype)
    for slot, push in enumerate(pushes, start=1):
        for part in push.parts:
            if not part.removes:
                vector = part.vector.detach().to(device="cpu", dtype=dtype)
                tables[layers.index(part.layer), slot] = torch.where(vector == 0, -0.0, vector)
    return tables.to(device)
