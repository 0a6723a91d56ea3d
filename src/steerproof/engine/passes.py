"""Forward and backward passes over micro-batches, into the adapters' gradients and losses.

On a GPU a small model's pass takes the host longer to launch than the GPU to compute: thirteen
thousand kernels for thirty blocks. There passes of one shape are captured as a graph, when that
shape comes for the second time, and replayed from then on; whatever changes between them is
written into the memory that the graph reads.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from steerproof.engine.batches import MicroBatch
from steerproof.engine.fused_blocks import fused_blocks
from steerproof.engine.graphs import CapturedSteps, capturable
from steerproof.engine.lora.dropout import Dropout
from steerproof.engine.lora.gradients import LoraGradients
from steerproof.engine.lora.tiles import TiledGradients
from steerproof.engine.loss import nll
from steerproof.engine.norms import fused_norms
from steerproof.engine.packed_attention import PackedAttention, packed_attention
from steerproof.engine.packing import PackedRows
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.split import devices_of
from steerproof.model.steering import Steering
from steerproof.model.transfer import sent, unplanned_attention

_CAPTURED_PARAMETERS = 1_000_000_000
"""Models below this are captured: in larger ones the products take longer than their launches."""


def capturing(base: Base, *, checkpointing: bool) -> bool:
    """Whether passes over this model are captured as graphs."""
    if checkpointing or not capturable(devices_of(base.model)):
        return False
    return sum(parameter.numel() for parameter in base.model.parameters()) < _CAPTURED_PARAMETERS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a pass reads from the host, on the device; the same memory for every pass of a shape."""

    ids: Int[Tensor, "row seq"]
    dropout_keys: Int[Tensor, "*row"]
    predicting: Int[Tensor, " completion"]
    targets: Int[Tensor, " completion"]
    weights: Float[Tensor, " completion"]
    owners: Int[Tensor, " completion"]
    positions: Int[Tensor, "1 token"] | None = None
    tiles: Int[Tensor, " tile"] | None = None
    ends: Int[Tensor, " row1"] | None = None
    """These three of packed rows alone."""

    def take(self, other: "_Inputs") -> None:
        """Write another pass's over these, in place."""
        for name in _Inputs.__dataclass_fields__:
            mine = getattr(self, name)
            if mine is not None:
                mine.copy_(getattr(other, name))


class Passes:
    """Forward and backward passes of one pool of adapters."""

    def __init__(
        self, gradients: LoraGradients, steering: Steering, *, dropout: float, captures: bool
    ) -> None:
        """Nothing is attached, or captured, yet.

        Args:
            gradients: What a backward pass adds to; over packed rows if they are `TiledGradients`.
            steering: The directions that rows are pushed by.
            dropout: Rate, on the adapters' inputs.
            captures: Whether a pass is done as a graph where its shape was seen before.
        """
        self._base = gradients.pool.base
        self.gradients, self.steering, self._dropout = gradients, steering, dropout
        self.captures = captures
        self._take = torch.empty(0, dtype=torch.int64)
        self._steps = CapturedSteps(devices_of(self._base.model), emptying=True)
        self._inputs: dict[tuple[object, ...], _Inputs] = {}
        self._attention = PackedAttention()
        self.losses = torch.zeros(
            gradients.pool.slots + 1, dtype=torch.float64, device=self._base.device
        )
        """Sum of the weighted losses by slot, to which every pass adds."""

    @contextmanager
    def attached(self, *, checkpointing: bool) -> Iterator[None]:
        """Adapters, directions and the choice of completion positions, on the base.

        Raises:
            ModelError: The model has no output embeddings, or a pool is attached already.
        """
        head = self._base.model.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(self._base.model).__name__} has no output embeddings")
        with ExitStack() as stack:
            stack.enter_context(fused_norms(self._base))
            stack.enter_context(fused_blocks(self._base))
            stack.enter_context(unplanned_attention(self._base.device))
            if isinstance(self.gradients, TiledGradients):
                self._attention = stack.enter_context(packed_attention(self._base))
            stack.enter_context(self.gradients.attach())
            stack.enter_context(self.steering.attach())
            stack.callback(head.register_forward_pre_hook(self._only_completions).remove)
            if checkpointing:
                stack.enter_context(_checkpointed(self._base))
            yield

    def run(self, batch: MicroBatch | PackedRows, *, plainly: bool = False) -> None:
        """Add a micro-batch's gradients and losses.

        Args:
            batch: Its rows' adapters and pushes must exist; packed rows for `TiledGradients`.
            plainly: Not as a graph, whatever shape it has.
        """
        self.steering.route(batch.push_slots, batch.mask)
        inputs, longest = self._sent(batch), 0
        shape: tuple[object, ...] = (*batch.ids.shape, len(batch.targets))
        if isinstance(batch, PackedRows):
            longest = batch.longest
            shape += (longest, len(batch.ends))
        else:
            self.gradients.route(batch.adapter_slots)
            shape += self.gradients.pool.routing.slots
        if plainly or not self.captures:
            self._compute(inputs, longest)
            return
        if shape in self._inputs:
            self._inputs[shape].take(inputs)
        inputs = self._inputs.setdefault(shape, inputs)
        self._steps(shape, lambda: self._compute(inputs, longest))

    def _sent(self, batch: MicroBatch | PackedRows) -> _Inputs:
        device = self._base.device
        exact = torch.float64 if self._base.dtype == torch.float64 else torch.float32
        more = {}
        if isinstance(batch, PackedRows):
            more = {
                "positions": sent(batch.positions, device),
                "tiles": sent(batch.tiles, device),
                "ends": sent(batch.ends, device),
            }
        return _Inputs(
            ids=sent(batch.ids, device),
            dropout_keys=sent(batch.dropout_keys, device),
            predicting=sent(batch.predicting, device),
            targets=sent(batch.targets, device),
            weights=sent(batch.weights.to(exact), device),
            owners=sent(batch.owners, device),
            **more,
        )

    # Whoever consumes the trained adapters may be in a no_grad block of its own.
    @torch.enable_grad()
    def _compute(self, inputs: _Inputs, longest: int) -> None:
        keys, places = inputs.dropout_keys, inputs.positions
        self.gradients.drop(Dropout(rate=self._dropout, row_keys=keys, places=places))
        self._take = inputs.predicting
        if isinstance(self.gradients, TiledGradients):
            assert inputs.tiles is not None
            assert inputs.ends is not None
            self.gradients.route_tiles(inputs.tiles)
            self._attention.route(inputs.ends, longest)
        output: Any = self._base.model(
            input_ids=inputs.ids, position_ids=inputs.positions, use_cache=False
        )
        # Not `logits[0]`, whose gradient would be zeros of that size and a copy into them.
        shares = nll(output.logits.squeeze(0), inputs.targets) * inputs.weights
        with self.steering.replaying():
            shares.sum().backward()
        self.losses.index_add_(0, inputs.owners, shares.detach().double())

    def _only_completions(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Logits only where a completion token is predicted, whatever the model does to them."""
        return (args[0].flatten(0, 1).index_select(0, self._take)[None], *args[1:])


@contextmanager
def _checkpointed(base: Base) -> Iterator[None]:
    """Keep only the blocks' inputs, and run each block again in the backward pass.

    The block's `forward` is wrapped, not its `__call__`: hooks on the block stay outside and fire
    once.
    """
    with ExitStack() as stack:
        for block in base.blocks:
            block.forward = partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
            )
            stack.callback(delattr, block, "forward")
        yield
