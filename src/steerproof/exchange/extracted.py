"""Directions that were extracted here, with all that is known of them."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.exchange.direction import Direction, Provenance, as_vector
from steerproof.exchange.shape import Shape
from steerproof.model.base import Base
from steerproof.spec.experiment import DirectionKind, Experiment
from steerproof.study.calibration import calibrate
from steerproof.study.directions import Directions, extract, from_residuals

POSITION = "last prompt token"
"""Where an experiment's directions are read."""
SIGN = "towards the persona, from the mean of the headline personas"
_RANDOM_SIGN = "none: drawn at random"


def extracted(
    measured: Iterable[tuple[Directions, LayerCalibration]],
    experiment: Experiment,
    shape: Shape,
    kind: DirectionKind = "centroid",
) -> Iterator[Direction]:
    """Every persona's direction of a kind, layer by layer.

    Args:
        measured: The directions of each layer, and their calibration.
        experiment: The one they were extracted for.
        shape: The model.
        kind: Which direction.
    """
    for directions, calibration in measured:
        known = Provenance(
            model=experiment.model.path,
            revision=experiment.model.revision,
            model_type=shape.model_type,
            blocks=shape.blocks,
            scaled=False,
            h_bar=calibration.h_bar,
            position=POSITION,
            centred_on=experiment.headline,
            questions=questions_sha256(experiment.direction_questions),
            sign=SIGN if kind == "centroid" else _RANDOM_SIGN,
            dtype=experiment.model.dtype,
        )
        for persona in directions.personas:
            yield Direction(
                name=persona,
                layer=directions.layer,
                vector=as_vector(directions.vector(kind, persona)),
                provenance=known,
            )


def measure(
    base: Base, experiment: Experiment, layers: Sequence[int]
) -> Iterator[tuple[Directions, LayerCalibration]]:
    """Extract and calibrate the directions of an experiment at some blocks.

    Raises:
        SteeringError: There is no such block, or a residual is not finite.
    """
    residuals = extract(
        base,
        personas={persona.name: persona.prompt for persona in experiment.personas},
        neutral=experiment.neutral_prompt,
        questions=experiment.direction_questions,
        layers=sorted(set(layers)),
    )
    for seen in residuals.values():
        found = from_residuals(seen, headline=experiment.headline, seed=experiment.seed)
        yield (
            found,
            calibrate(
                seen,
                found,
                headline=experiment.headline,
                reference=experiment.reference_persona,
                seed=experiment.seed,
            ),
        )


def questions_sha256(questions: Iterable[str]) -> str:
    """sha256 of the questions, one a line."""
    return sha256("\n".join(questions).encode()).hexdigest()
