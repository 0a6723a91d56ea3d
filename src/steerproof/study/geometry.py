"""The geometry of a layer: its directions with the scale that they are measured by, as one value.

A direction alone does not say how hard it pushes; with `h_bar`, the baseline norm of the residual,
it does. So both are extracted together, written together, and give pushes together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jaxtyping import Float
from torch import Tensor

from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.errors import SteeringError
from steerproof.model.base import Base
from steerproof.model.push import Push
from steerproof.spec.experiment import DirectionKind, Operation, Tokens
from steerproof.spec.grid import Cell
from steerproof.spec.strength import NONE, Strength, one_strength
from steerproof.study.calibration import calibrate
from steerproof.study.directions import (
    Directions,
    Prompts,
    Residuals,
    extract,
    fresh,
    from_residuals,
)

Layers = Mapping[int, "LayerGeometry"]
"""The geometry of each layer, by the index of its block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGeometry:
    """One layer: where its directions point, how long they are, how long the residual is."""

    directions: Directions
    calibration: LayerCalibration
    seed: int = 0
    """What fresh random directions are drawn from."""

    @property
    def layer(self) -> int:
        """0-based index of the decoder block."""
        return self.directions.layer

    @property
    def h_bar(self) -> float:
        """Baseline residual norm: mean under the neutral prompt, last prompt token."""
        return self.calibration.h_bar

    @property
    def personas(self) -> tuple[str, ...]:
        """Whose directions there are."""
        return self.directions.personas

    def vector(
        self, persona: str, kind: DirectionKind = "centroid", draw: int | None = None
    ) -> Float[Tensor, " hidden"]:
        """A direction, before any coefficient.

        Args:
            persona: Whose.
            kind: Which of the persona's directions.
            draw: Number of a fresh random direction instead, of the length of the centroid.

        Raises:
            SteeringError: There is no such persona or kind.
        """
        if persona not in self.personas:
            raise SteeringError(
                f"layer {self.layer} has no direction of {persona!r}; there are "
                f"{', '.join(self.personas)}"
            )
        if kind == "none":
            raise SteeringError("the kind 'none' is no direction; use centroid or a random one")
        if draw is not None:
            return fresh(self.directions, persona, seed=self.seed, draw=draw)
        return self.directions.vector(kind, persona)

    def push(
        self,
        persona: str,
        strength: Strength | None = None,
        *,
        kind: DirectionKind = "centroid",
        ratio: float | int | None = None,
        c: float | int | None = None,
    ) -> Push:
        """A direction at a strength: a new object with every call.

        Args:
            persona: Whose direction.
            strength: How hard; or else one of the two numbers below.
            kind: Which of the persona's directions.
            ratio: Size of the push over `h_bar`; negative pushes against the direction.
            c: The number that multiplies the direction.

        Raises:
            SteeringError: Not exactly one strength, or one that pushes nothing; no such direction,
                or one without a length.
        """
        asked = one_strength(strength, ratio=ratio, c=c)
        return self.asked(AskedPush(kind=kind, persona=persona, layer=self.layer, strength=asked))

    def asked(self, asked: "AskedPush") -> Push:
        """The push that an experiment asks for: a new object with every call.

        Raises:
            SteeringError: There is no such direction, or it has no length.
        """
        vector = self.vector(asked.persona, asked.kind, asked.draw)
        norm = float(vector.double().norm())
        if not norm > 0:
            raise SteeringError(
                f"layer {self.layer}: the {asked.kind} of {asked.persona} has norm {norm:.3g}, so "
                "there is nothing to push along; its prompt moves the residual as the mean of the "
                "headline personas does"
            )
        number = asked.strength.coefficient(h_bar=self.h_bar, norm=norm)
        if asked.operation == "remove":
            # Its size depends on the residual that it meets: it has no ratio.
            return Push(
                layer=self.layer,
                vector=vector,
                removes=number,
                tokens=asked.tokens,
                coefficient=number,
                name=asked.persona,
            )
        return Push(
            layer=self.layer,
            vector=vector * number,
            tokens=asked.tokens,
            coefficient=number,
            ratio=asked.strength.ratio(h_bar=self.h_bar, norm=norm),
            name=asked.persona,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPush:
    """A push as an experiment asks for it."""

    kind: DirectionKind
    persona: str
    """Whose direction."""
    layer: int
    strength: Strength
    draw: int | None = None
    """Number of a fresh random direction; none is the persona's own."""
    tokens: Tokens = "all"
    operation: Operation = "add"


def asked_by(cell: Cell) -> AskedPush | None:
    """What a cell is pushed by; None if by nothing."""
    if cell.layer is None or cell.direction == "none" or cell.strength == NONE:
        return None
    return AskedPush(
        kind=cell.direction,
        persona=cell.of or cell.persona,
        layer=cell.layer,
        strength=cell.strength,
        draw=cell.draw,
        tokens=cell.tokens or "all",
        operation=cell.operation or "add",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A direction that was not extracted here."""

    vector: Float[Tensor, " hidden"]
    """Before any coefficient."""
    words: str
    """Where it comes from, and what is unknown of it."""


PushOf = Callable[[AskedPush | None], Push | None]
"""None for none."""


def pushes_of(layers: Layers) -> PushOf:
    """Pushes by what is asked for, the same object for the same: the engine knows them by identity.

    What it gives raises a SteeringError for a direction that is not there or has no length.
    """

    @cache
    def push(asked: AskedPush | None) -> Push | None:
        if asked is None:
            return None
        if asked.layer not in layers:
            raise SteeringError(f"no directions of layer {asked.layer}; there are {sorted(layers)}")
        return layers[asked.layer].asked(asked)

    return push


def geometry(
    base: Base, prompts: Prompts, layers: Sequence[int], seed: int = 0
) -> dict[int, LayerGeometry]:
    """Extract the directions of some layers; measure how long they and the residual are.

    Args:
        base: The frozen model, nothing attached.
        prompts: What it is asked.
        layers: 0-based block indices.
        seed: Of random directions and of the halves of the questions.

    Raises:
        ModelError: A prompt does not fit into the context, or the template drops it.
        SteeringError: There is no such layer, or a residual is not finite.
    """
    seen = extract(base, prompts, sorted(set(layers)))
    return {layer: layer_geometry(residuals, prompts, seed) for layer, residuals in seen.items()}


def layer_geometry(
    residuals: Residuals, prompts: Prompts, seed: int, given: Mapping[str, Given] | None = None
) -> LayerGeometry:
    """The geometry of one layer from its residuals.

    Args:
        residuals: Of the layer.
        prompts: What the base model was asked.
        seed: Of random directions and of the halves of the questions.
        given: Directions that stand in place of their persona's centroid.

    Raises:
        SteeringError: A residual or the baseline norm is not finite.
    """
    brought = given or {}
    directions = from_residuals(
        residuals,
        headline=prompts.headline,
        seed=seed,
        given={name: one.vector for name, one in brought.items()},
    )
    calibration = calibrate(
        residuals,
        directions,
        headline=prompts.headline,
        reference=prompts.reference,
        seed=seed,
        imported={name: one.words for name, one in brought.items()},
    )
    return LayerGeometry(directions=directions, calibration=calibration, seed=seed)
