"""The kinds of direction: each one function from what the base model showed to a table of vectors.

To add one: a function here with its line in `KINDS`, and its name in `spec`'s `DirectionKind`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from steerproof.spec.seeds import derived_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a kind of direction can be made of, at one layer; float64."""

    layer: int
    personas: tuple[str, ...]
    headline: tuple[int, ...]
    """Places of the personas whose mean was subtracted."""
    raw: Float[Tensor, "persona hidden"]
    """Mean residual of each persona."""
    centroid: Float[Tensor, "persona hidden"]
    """The same without the headline mean; zeros where a persona does not move the residual."""
    by_persona: Float[Tensor, "persona question hidden"]
    """Residual of each persona under each question, in the number type of the residual."""
    seed: int
    """The experiment's; what is random is drawn from (seed, kind, persona, layer)."""


Kind = Callable[[Material], Float[Tensor, "persona hidden"]]
"""The vectors of a kind, one row per persona, before any coefficient."""
Draw = Callable[[torch.Generator, Tensor, Tensor], Tensor]
"""A random vector, of any length, from the centroid that it is a control of and the headline's."""


def isotropic(generator: torch.Generator, _own: Tensor, basis: Tensor) -> Tensor:
    """Gaussian."""
    return torch.randn(basis.shape[1], generator=generator, dtype=torch.float64)


def in_subspace(generator: torch.Generator, own: Tensor, basis: Tensor) -> Tensor:
    """A zero-sum Gaussian mix of the centroids, orthogonal to the own one."""
    weights = torch.randn(basis.shape[0], generator=generator, dtype=torch.float64)
    vector = (weights - weights.mean()) @ basis
    return vector - (vector @ own) / (own @ own) * own if bool(own.any()) else vector


def drawn(
    draw: Draw, parts: tuple[str | int, ...], own: Tensor, basis: Tensor
) -> Float[Tensor, " hidden"]:
    """A random vector of the length of a centroid.

    Args:
        draw: Which distribution.
        parts: What its seed is derived from.
        own: The centroid that it is a control of.
        basis: The headline centroids.
    """
    vector = draw(torch.Generator().manual_seed(derived_seed(*parts)), own, basis)
    norm = vector.norm()
    return vector / norm * own.norm() if bool(norm > 0) else vector


def _control(shown: Material, kind: str, draw: Draw) -> Float[Tensor, "persona hidden"]:
    basis = shown.centroid[list(shown.headline)]
    return torch.stack(
        [
            drawn(draw, (shown.seed, kind, name, shown.layer), own, basis)
            for name, own in zip(shown.personas, shown.centroid, strict=True)
        ]
    )


KINDS: Mapping[str, Kind] = {
    "centroid": lambda shown: shown.centroid,
    "isotropic": partial(_control, kind="isotropic", draw=isotropic),
    "in_subspace": partial(_control, kind="in_subspace", draw=in_subspace),
}
"""By the name that an experiment calls them; the centroid is what the others are compared with."""
