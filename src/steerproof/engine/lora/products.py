"""The adapters' products for mixed rows, without a loop over adapters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Which rows of a batch use which slots; `bare` rows of slot 0 come first."""

    rows: int
    bare: int
    slots: tuple[int, ...]
    """The adapters present, ascending."""
    counts: tuple[int, ...]
    """Rows of each."""
    row_ends: Tensor
    """Per slot 1, 2, ...: where its rows end, counted after the bare ones. On the device."""
    row_slots: Tensor
    """The slot of each row. On the device."""
    index: slice | Tensor
    """Where the adapters present are in a stack: a slice when they are neighbours."""

    @property
    def even(self) -> bool:
        """Whether every adapter has the same number of rows."""
        return len(set(self.counts)) == 1


def _adapter_product(x: Tensor, a: Tensor, b: Tensor, routing: Routing) -> Tensor:
    """`(x A[slot]^T) B[slot]` of the rows that have an adapter, without a loop over adapters.

    Args:
        x: `[rows seq in]`, rows in order of their slots.
        a: `[slots rank in]`.
        b: `[slots rank out]`.
        routing: Which rows belong to which slot.

    Returns:
        `[rows seq out]`, not scaled.
    """
    rows, seq, _ = x.shape
    if routing.even:
        groups = x.reshape(len(routing.slots), -1, x.shape[2])
        product = torch.bmm(thin_product(groups, a[routing.index]), b[routing.index])
    else:
        ends = routing.row_ends * seq
        tokens = x.reshape(rows * seq, -1)
        product = grouped_product(grouped_product(tokens, a.mT, ends), b, ends)
    return product.view(rows, seq, -1)


def added(y: Tensor, x: Tensor, a: Tensor, b: Tensor, routing: Routing, scaling: float) -> Tensor:
    """What a frozen layer gave and its adapters' products; changes `y` where no gradient is asked.

    Args:
        y: `[rows seq out]`.
        x: Its input, `[rows seq in]`.
        a: `[slots rank in]`.
        b: `[slots rank out]`.
        routing: Which rows belong to which slot.
        scaling: Factor on the products.
    """
    if not routing.slots:
        return y
    bare = routing.bare
    change = _adapter_product(x[bare:], a, b, routing)
    if torch.is_grad_enabled() and change.requires_grad:
        sums = torch.add(y[bare:], change, alpha=scaling)
        return torch.cat([y[:bare], sums]) if bare else sums
    y[bare:].add_(change, alpha=scaling)
    return y


def grouped_product(
    x: Float[Tensor, "tokens inputs"],
    weights: Float[Tensor, "groups inputs outputs"],
    ends: Int[Tensor, " groups"],
) -> Float[Tensor, "tokens outputs"]:
    """Of each group of neighbouring tokens the product with its own weights.

    Args:
        x: The tokens, group by group.
        weights: Of each group.
        ends: Where each group ends; the last at the last token.
    """
    known = x.dtype != torch.float64 and hasattr(F, "grouped_mm")
    if known and _aligned(x) and _aligned(weights):
        return F.grouped_mm(x, weights, offs=ends)
    groups = x.tensor_split(ends[:-1].long().cpu())
    return torch.cat([part @ own for part, own in zip(groups, weights, strict=True)])


def _aligned(matrices: Tensor) -> bool:
    """Whether rows, or columns, begin at multiples of 16 bytes, as the library's product wants."""
    size = matrices.element_size()
    return all(stride == 1 or stride * size % 16 == 0 for stride in matrices.stride()[-2:])


def add_on_gpu(
    ys: Sequence[Tensor],
    x: Tensor,
    stacks: Sequence[tuple[Tensor, Tensor]],
    routing: Routing,
    scaling: float,
) -> None:
    """Add the adapters' products by operations in which nothing but tensors is routed.

    Args:
        ys: What layers with a common input gave, `[rows seq out]` each; changed in place.
        x: Their input, `[rows seq in]`.
        stacks: A and B of each layer, with zeros in slot 0.
        routing: Which rows belong to which slot.
        scaling: Factor on the products.
    """
    if x.dtype == torch.float64:  # Triton has no product of such numbers.
        for y, (a, b) in zip(ys, stacks, strict=True):
            product = torch.bmm(torch.bmm(x, a[routing.row_slots].mT), b[routing.row_slots])
            y.add_(product, alpha=scaling)
        return
    from steerproof.engine.lora.kernels import MOST_LAYERS, add_adapters

    for first in range(0, len(ys), MOST_LAYERS):
        some = slice(first, first + MOST_LAYERS)
        add_adapters(ys[some], x, stacks[some], routing.row_slots, scaling)


def thin_product(x: Tensor, a: Tensor) -> Tensor:
    """`x A^T` of every group, `[groups, tokens, rank]`, laid out as is fastest.

    A thin result is several times faster on a CPU when it lies down, `[rank, tokens]`. On a GPU it
    would be as much slower: rows of an odd number of tokens do not start at 16 bytes.

    Args:
        x: `[groups tokens in]`.
        a: `[groups rank in]`.
    """
    if x.device.type == "cpu":
        return torch.bmm(a, x.mT).mT
    return torch.bmm(x, a.mT)
