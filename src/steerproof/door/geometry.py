"""Directions of a base model, with the scale by which they push."""

from collections.abc import Mapping, Sequence

from steerproof.model.base import Base
from steerproof.study.directions import Prompts
from steerproof.study.geometry import LayerGeometry, geometry


def directions(
    base: Base,
    personas: Mapping[str, str],
    questions: Sequence[str],
    *,
    neutral: str,
    layers: Sequence[int],
    seed: int = 0,
) -> dict[int, LayerGeometry]:
    """Extract the direction of every persona at some layers.

    A direction is the mean residual at the last prompt token under the persona's system prompt,
    minus the mean of all personas. `found[3].push("villain", ratio=0.2)` pushes along one.

    Args:
        base: The model.
        personas: System prompt by name, two at least; the first is the one to which angles are
            given.
        questions: Asked under every system prompt, two at least.
        neutral: The neutral system prompt, by whose residuals ratios are measured.
        layers: 0-based decoder blocks.
        seed: Of the random directions of equal length.

    Returns:
        The geometry of each layer, by its number.

    Raises:
        ModelError: A prompt does not fit into the context, or the template drops it.
        SteeringError: There is no such layer, or a residual is not finite.
    """
    names = tuple(personas)
    prompts = Prompts(
        personas=dict(personas),
        neutral=neutral,
        questions=tuple(questions),
        headline=names,
        reference=names[0],
    )
    return geometry(base, prompts, layers, seed)
