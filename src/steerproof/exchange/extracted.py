"""Directions that were extracted here, with all that is known of them."""

from collections.abc import Iterable, Iterator
from hashlib import sha256

from steerproof.exchange.direction import Direction, Provenance, as_vector
from steerproof.exchange.shape import Shape
from steerproof.spec.experiment import DirectionKind, Experiment
from steerproof.study.geometry import LayerGeometry

_POSITION = "last prompt token"
"""Where an experiment's directions are read."""
_SIGN = "towards the persona, from the mean of the headline personas"
_RANDOM_SIGN = "none: drawn at random"


def extracted(
    layers: Iterable[LayerGeometry],
    experiment: Experiment,
    shape: Shape | None,
    kind: DirectionKind = "centroid",
) -> Iterator[Direction]:
    """Every persona's direction of a kind, layer by layer.

    Args:
        layers: The geometry of each.
        experiment: The one they were extracted for.
        shape: The model; None where only the experiment is at hand.
        kind: Which direction.
    """
    for geometry in layers:
        known = Provenance(
            model=experiment.model.path,
            revision=experiment.model.revision,
            model_type=None if shape is None else shape.model_type,
            blocks=experiment.model.blocks if shape is None else shape.blocks,
            scaled=False,
            h_bar=geometry.h_bar,
            position=_POSITION,
            centred_on=experiment.headline,
            questions=_questions_sha256(experiment.direction_questions),
            sign=_SIGN if kind == "centroid" else _RANDOM_SIGN,
            dtype=experiment.model.dtype,
        )
        for persona in geometry.personas:
            yield Direction(
                name=persona,
                layer=geometry.layer,
                vector=as_vector(geometry.vector(persona, kind)),
                provenance=known,
            )


def _questions_sha256(questions: Iterable[str]) -> str:
    """sha256 of the questions, one a line."""
    return sha256("\n".join(questions).encode()).hexdigest()
