"""Tensors without a description, as directions: which block a row belongs to is never guessed.

Two conventions look alike. In a table like `hidden_states` row 0 is the embedding and row k is
what block k-1 puts out (persona_vectors); in the other, row k is block k. They differ by one row,
so the number of rows tells them apart, against the depth of the model. What cannot be told is
refused, and has to be said.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from steerproof.errors import SteeringError
from steerproof.exchange.direction import Direction, Provenance, as_vector
from steerproof.exchange.shape import Shape

Rows = Literal["block", "hidden_states"]
"""What a number stands for: a 0-based block, or the index in `hidden_states`, one more."""
Nested = Mapping[str, "Tensor | Nested"]
"""Tensors by name or layer number, or by one in the other."""

# `model.layers.3` is the path of a module, so it can only be a block.
_MODULE = re.compile(r"(?:model\.|transformer\.)?(?:layers|h|blocks)\.(\d+)")
_NUMBERED = re.compile(r"(?:layer[._]?|l|direction\.)?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file without a description is to be read."""

    shape: Shape
    """The model that it is for."""
    name: str
    """Name of a direction that has none in the file."""
    known: Provenance
    """What is known of all its directions; its source says the file."""
    layer: int | None = None
    """Block of vectors that do not say theirs."""
    rows: Rows | None = None
    """What rows or numbers stand for, if the file does not tell."""

    @property
    def file(self) -> str:
        """Its name, for messages."""
        source = self.known.source
        return "the tensors" if source is None else source.file


def read_tensors(tree: "Tensor | Nested", reading: Reading) -> tuple[Direction, ...]:
    """The directions that a tensor, or tensors by name or by layer, hold.

    Rows of nothing but zeros are left out: they stand for a block without a direction.

    Raises:
        SteeringError: The shapes do not fit the model, or it cannot be told which block is meant.
    """
    directions = tuple(_walk(tree, reading))
    if not directions:
        raise SteeringError(f"{reading.file} holds no vector that is not zero")
    return directions


def _walk(tree: "Tensor | Nested", reading: Reading) -> Iterator[Direction]:
    if isinstance(tree, Tensor):
        yield from _tensor(tree, reading)
        return
    layers = _layers(tree, reading)
    for key, value in tree.items():
        if layers is None:
            yield from _walk(value, replace(reading, name=key))
        elif isinstance(value, Tensor) and value.squeeze().ndim != 1:
            raise SteeringError(
                f"{reading.file}: {key!r} has shape {tuple(value.shape)}; one vector was expected"
            )
        elif layers[key] >= 0:
            place = f"key {key!r}, as block {layers[key]}"
            yield from _vector(value, replace(reading, layer=layers[key]), place)


def _tensor(tensor: Tensor, reading: Reading) -> Iterator[Direction]:
    """A vector, or a table with a row for each block."""
    if tensor.ndim == 1 or (tensor.ndim == 2 and tensor.shape[0] == 1 != reading.shape.blocks):
        yield from _vector(tensor, reading, "the whole tensor")
        return
    if tensor.ndim != 2:
        raise SteeringError(
            f"{reading.file}: {reading.name!r} has shape {tuple(tensor.shape)}; allowed are"
            " [hidden] and [rows, hidden]"
        )
    rows, blocks = tensor.shape[0], reading.shape.blocks
    fitting: dict[int, Rows] = {blocks: "block", blocks + 1: "hidden_states"}
    meant = fitting.get(rows)
    if meant is None or reading.rows not in (None, meant):
        asked = "" if reading.rows is None else f", read as {reading.rows}"
        raise SteeringError(
            f"{reading.file}: {rows} rows{asked} do not fit {reading.shape.model}: its {blocks}"
            f" blocks need {blocks} rows (row k is block k) or {blocks + 1} (row k is block k-1,"
            " row 0 the embedding); is it for another model?"
        )
    first = 1 if meant == "hidden_states" else 0
    for row in range(first, rows):
        block = row - first
        place = f"row {row} of {rows}, as in hidden_states" if first else f"row {row} of {rows}"
        yield from _vector(tensor[row], replace(reading, layer=block), place)


def _vector(tensor: object, reading: Reading, place: str) -> Iterator[Direction]:
    if not isinstance(tensor, Tensor):
        raise SteeringError(
            f"{reading.file}: {reading.name!r}, {place}, is a {type(tensor).__name__}, not a tensor"
        )
    width, shape = tensor.numel(), reading.shape
    if width != shape.hidden_size:
        raise SteeringError(
            f"{reading.file}: {reading.name!r}, {place}, is {width} wide, {shape.model} is"
            f" {shape.hidden_size}; is it for another model?"
        )
    if reading.layer is None:
        raise SteeringError(
            f"{reading.file}: {reading.name!r} is one vector and does not say its block; give"
            " --layer, the 0-based block whose output it is added to"
        )
    if not 0 <= reading.layer < shape.blocks:
        raise SteeringError(
            f"{reading.file}: block {reading.layer} is not one of the blocks 0 to"
            f" {shape.blocks - 1} of {shape.model}"
        )
    if not bool(tensor.any()):
        return
    source = reading.known.source
    yield Direction(
        name=reading.name,
        layer=reading.layer,
        vector=as_vector(tensor.reshape(-1)),
        provenance=replace(
            reading.known,
            dtype=str(tensor.dtype).removeprefix("torch."),
            source=None if source is None else replace(source, place=place),
        ),
    )


def _layers(tree: Nested, reading: Reading) -> dict[str, int] | None:
    """Block of every key, -1 for the embedding; None where keys are names."""
    modules = {key: _number(_MODULE, key) for key in tree}
    if all(number is not None for number in modules.values()):
        return {key: number for key, number in modules.items() if number is not None}
    numbers = {key: _number(_NUMBERED, key) for key in tree}
    known = {key: number for key, number in numbers.items() if number is not None}
    if len(known) != len(numbers):
        return None
    meant = reading.rows or _convention(set(known.values()), reading.shape.blocks)
    if meant is None:
        shown = ", ".join(str(number) for number in sorted(known.values()))
        raise SteeringError(
            f"{reading.file}: the layers {shown} can be blocks of {reading.shape.model}, or"
            " places in hidden_states, one more; say which with --rows block or"
            " --rows hidden_states"
        )
    first = 1 if meant == "hidden_states" else 0
    return {key: number - first for key, number in known.items()}


def _convention(numbers: set[int], blocks: int) -> Rows | None:
    """What a set of layer numbers can only mean; None if it can mean either."""
    if max(numbers) == blocks:  # no block has this number
        return "hidden_states"
    return "block" if numbers == set(range(blocks)) else None


def _number(pattern: re.Pattern[str], key: str) -> int | None:
    match = pattern.fullmatch(key)
    return int(match[1]) if match else None
