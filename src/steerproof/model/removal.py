"""Taking a direction out of the residual: `h - share (h.u) u` with `u = v / ||v||`.

What is removed depends on the residual, unlike what is added, so it is computed in the forward
pass. A row that removes nothing at a layer keeps its residual bit for bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from steerproof.model.split import Spread


class Removals:
    """For each steered layer and slot the axis along which the residual is shortened."""

    def __init__(self, axes: Sequence[Sequence[Tensor | None]], like: Tensor) -> None:
        """Build the tables.

        Args:
            axes: For each layer and slot `sqrt(share) u`, `[hidden]`; None where the slot removes
                nothing there.
            like: A tensor of the residual's number type, where the model runs.
        """
        width = next((len(axis) for row in axes for axis in row if axis is not None), 0)
        nothing = torch.zeros(width, dtype=torch.float64)
        self._any = [any(axis is not None for axis in row) for row in axes]
        flags = [[axis is not None for axis in row] for row in axes]
        used = torch.tensor(flags, dtype=torch.bool, device=like.device)
        table = [torch.stack([nothing if a is None else a.double().cpu() for a in r]) for r in axes]
        all_axes = torch.stack(table).to(like.device, _exact(like)) if table else like
        self._axes = [Spread(one, like.device) for one in all_axes]
        self._used = [Spread(one, like.device) for one in used]

    def applied(
        self,
        place: int,
        hidden: Tensor,
        steered: Tensor,
        index: Tensor,
    ) -> Tensor:
        """The residual with what is to be removed removed, computed in float32 at least.

        Args:
            place: Which of the steered layers.
            hidden: `[rows, seq, hidden]`, the residual as the block gave it.
            steered: The same with what is to be added; for positions that remove nothing.
            index: `[rows, seq]` or `[rows, 1]`, the slot of each row at each position or at all.
        """
        if not self._any[place]:
            return steered
        flat = index.flatten()
        axes = self._axes[place].on(hidden.device).index_select(0, flat).view(*index.shape, -1)
        wide = hidden.to(axes.dtype)
        component = (wide * axes).sum(-1, keepdim=True)
        shortened = (wide - component * axes).to(hidden.dtype)
        used = self._used[place].on(hidden.device)
        removes = used.index_select(0, flat).view(*index.shape, 1)
        return torch.where(removes, shortened, steered)


def _exact(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)
