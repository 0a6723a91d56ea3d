"""Directions from files that others wrote."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from steerproof.exchange.direction import Direction
from steerproof.exchange.files import read_directions as read_file
from steerproof.exchange.shape import shape_in_memory
from steerproof.exchange.tables import Rows
from steerproof.model.base import Base
from steerproof.study.geometry import LayerGeometry


def read_directions(
    file: str | Path,
    base: Base,
    *,
    geometry: Mapping[int, LayerGeometry] | None = None,
    name: str | None = None,
    layer: int | None = None,
    rows: Rows | None = None,
) -> dict[str, dict[int, Direction]]:
    """Read the directions of a file: persona_vectors, repeng, llama.cpp, steering-lite, and others.

    `found["evil"][19].push(c=2.0)` pushes along one; `.provenance.unknown()` says what its file
    did not.

    Args:
        file: `.pt`, `.safetensors`, `.gguf` or `.json` (vllm-lens).
        base: The model that it is for; its depth tells which row belongs to which block.
        geometry: From `directions`, whose baseline norms make ratios possible.
        name: Of a direction that has none in the file; its file's name if left out.
        layer: 0-based block of vectors that do not say theirs.
        rows: What layer numbers stand for, where the file does not tell: `block`, or
            `hidden_states`, one more.

    Returns:
        Directions by name and 0-based block.

    Raises:
        ModelError: The file cannot be read, holds a pickle of objects, or is for another model.
        SteeringError: It cannot be told which vector belongs to which block.
    """
    shape = shape_in_memory(base, str(base.model.config.name_or_path or "the model in memory"))
    by_name: dict[str, dict[int, Direction]] = {}
    for one in read_file(Path(file), shape, name=name, layer=layer, rows=rows):
        if geometry and one.layer in geometry and one.provenance.h_bar is None:
            known = replace(one.provenance, h_bar=geometry[one.layer].h_bar)
            one = replace(one, provenance=known)
        by_name.setdefault(one.name, {})[one.layer] = one
    return by_name
