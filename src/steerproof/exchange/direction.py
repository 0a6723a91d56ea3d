"""A direction with everything that is known of it, and what is not.

The bugs of this field come from what files leave out: whether layer 20 is block 19 or 20, whether
a coefficient is multiplied in already, which way is up. So a direction carries these with it, and
what its source did not say is None and shown as unknown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from steerproof.errors import SteeringError
from steerproof.model.push import Push
from steerproof.spec.strength import Strength, one_strength


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file that a direction was read from."""

    file: str
    """Its name."""
    sha256: str
    """Of its bytes."""
    format: str
    """`steerproof`, `tensor table`, `tensors by layer`, `gguf`, `steering-lite`, `vllm-lens`."""
    place: str
    """Where in the file, and how that was read: `row 20 of 29, as in hidden_states`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What is known of a direction besides its numbers; None is unknown."""

    model: str | None = None
    """Directory, name or hub id of the model that it was extracted from."""
    revision: str | None = None
    """Commit of a hub id."""
    model_type: str | None = None
    """The model's architecture, as its config.json calls it."""
    blocks: int | None = None
    """Number of decoder blocks of the model."""
    scaled: bool | None = None
    """Whether a coefficient has been multiplied in already."""
    coefficient: float | None = None
    """The number that its source multiplies it by in use."""
    h_bar: float | None = None
    """Baseline residual norm of the layer, by which ratios are measured."""
    position: str | None = None
    """Where in the text it was read: `last prompt token`, `mean of the response`."""
    centred_on: tuple[str, ...] | None = None
    """Personas whose mean was subtracted."""
    questions: str | None = None
    """sha256 of the questions that it was read under, one a line."""
    sign: str | None = None
    """Which way is up: `towards the persona`."""
    dtype: str | None = None
    """Number type that it was stored in."""
    source: Source | None = None
    """The file that it was read from; None if it was extracted here."""

    def __post_init__(self) -> None:
        for name in ("coefficient", "h_bar"):
            value = getattr(self, name)
            if value is not None and not isfinite(value):
                raise SteeringError(f"{name} of a direction is {value}, which is no number")

    def unknown(self) -> tuple[str, ...]:
        """Names of the fields that are not known."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A vector that is added to the output of one decoder block."""

    name: str
    """Persona, trait or concept."""
    layer: int
    """0-based block (index in `hidden_states` minus one)."""
    vector: Float[Tensor, " hidden"]
    """float32 on the CPU, before any coefficient unless `provenance.scaled`."""
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        """Refuse what cannot be added.

        Raises:
            SteeringError: It is not one finite vector with a length, or has a negative layer.
        """
        if self.vector.ndim != 1 or self.layer < 0:
            raise SteeringError(
                f"direction {self.name!r} has shape {tuple(self.vector.shape)} at layer"
                f" {self.layer}; it must be one vector, at a block from 0"
            )
        if not 0.0 < self.norm < float("inf"):
            raise SteeringError(
                f"direction {self.name!r} at block {self.layer} has norm {self.norm}; it must be"
                " finite and above 0"
            )

    @property
    def norm(self) -> float:
        """Euclidean length of the vector."""
        return float(self.vector.double().norm())

    def coefficient(self, strength: Strength) -> float:
        """The number that multiplies it at a strength.

        Raises:
            SteeringError: A ratio is asked for and the baseline norm is not known.
        """
        h_bar = self.provenance.h_bar
        if strength.kind == "ratio" and h_bar is None:
            raise SteeringError(
                f"{strength} of direction {self.name!r} is undefined: the baseline norm of block"
                f" {self.layer} is unknown; give a coefficient (c=+1), or calibrate on the model"
            )
        return strength.coefficient(h_bar=h_bar or 1.0, norm=self.norm)

    def push(
        self,
        strength: Strength | None = None,
        *,
        ratio: float | int | None = None,
        c: float | int | None = None,
    ) -> Push:
        """The push along it.

        Args:
            strength: How hard; or else one of the two numbers.
            ratio: Size of the push over the baseline norm, signed.
            c: The number that multiplies it.

        Raises:
            SteeringError: Not exactly one strength, or a ratio where the baseline norm is not
                known.
        """
        asked, h_bar = one_strength(strength, ratio=ratio, c=c), self.provenance.h_bar
        number = self.coefficient(asked)
        return Push(
            layer=self.layer,
            vector=self.vector * number,
            coefficient=number,
            ratio=None if h_bar is None else asked.ratio(h_bar=h_bar, norm=self.norm),
            name=self.name,
        )


def pick(
    directions: Iterable[Direction], *, name: str | None = None, layer: int | None = None
) -> tuple[Direction, ...]:
    """The directions of a name and of a block; None takes all.

    Raises:
        SteeringError: There is none; with what there is.
    """
    known = tuple(directions)
    fitting = tuple(one for one in known if name in (None, one.name) and layer in (None, one.layer))
    if not fitting:
        names = ", ".join(dict.fromkeys(one.name for one in known))
        layers = ", ".join(str(n) for n in sorted({one.layer for one in known}))
        asked = [f"called {name!r}"] * (name is not None) + [f"at block {layer}"] * (
            layer is not None
        )
        raise SteeringError(
            f"no direction {' '.join(asked)}; there are the names {names} and the blocks {layers}"
        )
    return fitting


def one_name(directions: Sequence[Direction]) -> dict[int, Direction]:
    """Directions of one name by block, for formats that hold one vector a block.

    Raises:
        SteeringError: They have several names, or one block twice.
    """
    names = sorted({one.name for one in directions})
    if len(names) != 1:
        raise SteeringError(f"this format holds one name, not {', '.join(names)}; choose one")
    by_layer = {one.layer: one for one in directions}
    if len(by_layer) != len(directions):
        raise SteeringError(f"two directions of {names[0]!r} are at one block")
    return dict(sorted(by_layer.items()))


def as_vector(tensor: Tensor) -> Float[Tensor, " hidden"]:
    """A copy in float32 on the CPU, in its own memory.

    Raises:
        SteeringError: It is no row of real, finite numbers.
    """
    if tensor.ndim != 1 or tensor.is_complex():
        raise SteeringError(f"{tensor.dtype} {list(tensor.shape)} is no direction: not [hidden]")
    odd = int((~torch.isfinite(tensor)).sum())
    if odd:
        raise SteeringError(
            f"{odd:,} of {len(tensor):,} numbers of a direction are NaN or infinite"
        )
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().clone()
