"""Directions that an experiment's personas bring from files, in place of their centroids."""

from pathlib import Path

from steerproof.errors import SteeringError
from steerproof.exchange.direction import Direction, pick
from steerproof.exchange.files import read_directions
from steerproof.exchange.shape import Shape
from steerproof.spec.experiment import Persona
from steerproof.study.geometry import Given


def brought(persona: Persona, place: Path, shape: Shape, layer: int) -> Direction:
    """A persona's direction at a block, from its file: by its name, or the file's only one.

    Args:
        persona: It has a `direction`.
        place: Directory of the experiment file, where relative paths start.
        shape: The model.
        layer: 0-based block.

    Raises:
        ModelError: The file cannot be read, or is for another model.
        SteeringError: It has no direction of the persona at that block.
    """
    path = place / str(persona.direction)
    directions = read_directions(path, shape, name=persona.name)
    names = list(dict.fromkeys(one.name for one in directions))
    if persona.name not in names and len(names) > 1:
        raise SteeringError(
            f"{path.name} has directions of {', '.join(names)}, and none of {persona.name}"
        )
    (direction,) = pick(
        directions, name=persona.name if persona.name in names else None, layer=layer
    )
    return direction


def given(direction: Direction) -> Given:
    """As an experiment's geometry takes it."""
    known = direction.provenance
    source = (
        "another file" if known.source is None else f"{known.source.file}, {known.source.place}"
    )
    return Given(
        vector=direction.vector,
        words=f"{source}; unknown: {', '.join(known.unknown()) or 'nothing'}",
    )
