"""Which push each row of a batch gets, at which of its positions: buffers that hooks read."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerproof.errors import SteeringError
from steerproof.model.split import Spread
from steerproof.model.transfer import sent


class Routes:
    """The slots of the rows of the coming forward passes.

    They are only written in place, so a compiled or captured forward sees every new routing.
    """

    def __init__(self, pushes: int, device: torch.device) -> None:
        """Nothing is routed.

        Args:
            pushes: There are slots 0 (none) to this.
            device: Where the model runs.
        """
        self._pushes = pushes
        with torch.inference_mode(False):
            self._store = torch.zeros(0, dtype=torch.int64, device=device)
        self._by_shape: dict[tuple[int, int], Tensor] = {}
        self._index: Spread[Tensor] | None = None
        """`[rows, 1]`, or `[rows, seq]` with a mask; None when nothing is routed."""

    @property
    def known(self) -> bool:
        """Whether rows were routed."""
        return self._index is not None

    def forget(self) -> None:
        """Nothing is routed any more."""
        self._index = None

    def route(self, slots: Int[Tensor, "*batch"], mask: Bool[Tensor, "rows seq"] | None) -> None:
        """Take slots, and where they count; see `Steering.route`.

        Raises:
            SteeringError: A slot does not exist, or the mask has another number of rows.
        """
        if slots.numel() and not 0 <= int(slots.min()) <= int(slots.max()) <= self._pushes:
            raise SteeringError(
                f"slots {int(slots.min())} to {int(slots.max())} asked for, but there are"
                f" {self._pushes} pushes (slots 1 to {self._pushes}; 0 is none)"
            )
        if mask is not None and mask.shape[0] != slots.shape[0]:
            raise SteeringError(f"{slots.shape[0]} slots for a mask of {mask.shape[0]} rows")
        device = self._store.device
        if mask is not None:
            index = self._masked((mask.shape[0], mask.shape[1]))
            of_rows = slots if slots.ndim == 2 else slots[:, None]
            index.copy_(sent(of_rows * mask, device))
        else:
            self.reserve(len(slots))
            index = self._store[: len(slots), None]
            index.copy_(sent(slots, device)[:, None])
        self._index = Spread(index, device)

    def reserve(self, rows: int) -> None:
        """Make routes without a mask, of up to so many rows, lie in the same memory."""
        if len(self._store) < rows:
            with torch.inference_mode(False):
                self._store = self._store.new_zeros(rows)

    def index_for(self, hidden: Tensor, width: int) -> Tensor:
        """The slots, checked against a block's output and on its device.

        Args:
            hidden: The output.
            width: Of the directions.

        Raises:
            SteeringError: Nothing was routed, or for another shape.
        """
        if self._index is None:
            raise SteeringError("a forward pass began before its rows were routed: call route()")
        index = self._index.on(hidden.device)
        fits = hidden.ndim == 3 and hidden.shape[0] == index.shape[0]
        if not fits or index.shape[1] not in (1, hidden.shape[1]):
            raise SteeringError(
                f"routed for {tuple(index.shape)} rows and positions, but the block's output is"
                f" {tuple(hidden.shape)}; route again for every batch shape"
            )
        if hidden.shape[2] != width:
            raise SteeringError(f"the directions are {width} wide, the residual {hidden.shape[2]}")
        return index

    def _masked(self, shape: tuple[int, int]) -> Tensor:
        """Where routes with a mask of this shape lie: always the same memory."""
        if shape not in self._by_shape:
            with torch.inference_mode(False):
                self._by_shape[shape] = self._store.new_zeros(shape)
        return self._by_shape[shape]
