"""One reader for all files of directions, one writer for each format."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from safetensors.torch import load

from steerproof.errors import ModelError, SteeringError
from steerproof.exchange.direction import Direction, Provenance, Source
from steerproof.exchange.gguf_files import read_gguf, write_gguf
from steerproof.exchange.serving import easysteer, read_vllm_lens, vllm_lens
from steerproof.exchange.shape import Shape
from steerproof.exchange.tables import Reading, Rows, read_tensors
from steerproof.exchange.tensor_files import (
    FORMAT,
    metadata_of,
    read_own,
    read_steering_lite,
    write_own,
)
from steerproof.exchange.torch_files import persona_vectors, read_torch, told_by_name
from steerproof.limits import whole_file

Format = Literal["steerproof", "gguf", "persona-vectors", "vllm-lens", "easysteer"]
FORMATS: tuple[Format, ...] = get_args(Format)


def read_directions(
    path: Path,
    shape: Shape | None = None,
    *,
    name: str | None = None,
    layer: int | None = None,
    rows: Rows | None = None,
) -> tuple[Direction, ...]:
    """Every direction of a file, whatever its format.

    Args:
        path: `.safetensors`, `.pt`, `.gguf` or `.json`.
        shape: The model that it is for; only steerproof's own files do without.
        name: Of a direction that has none in the file; None takes the file's name.
        layer: 0-based block of vectors that do not say theirs.
        rows: What rows or layer numbers stand for, where the file does not tell.

    Raises:
        ModelError: There is no such file, it cannot be read, or it is for another model.
        SteeringError: It cannot be told, or is not, which vector belongs to which block.
    """
    try:
        content = whole_file(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    suffix = path.suffix.lower()
    metadata = metadata_of(path) if suffix == ".safetensors" else {}
    if FORMAT in metadata:
        return _fitting(read_own(content, metadata, path.name), shape, path.name)
    if shape is None:
        raise ModelError(
            f"{path.name} does not say which model it is for; give --model, a directory or a hub id"
        )
    reading = _reading(path, content, shape, (name, layer, rows))
    if suffix == ".pt":
        return read_tensors(read_torch(content, path.name), reading)
    if suffix == ".safetensors":
        tensors = load(content)
        if "cfg" in metadata:
            return read_steering_lite(tensors, metadata, reading)
        return read_tensors({**tensors}, reading)
    if suffix == ".gguf":
        return read_gguf(path, reading)
    if suffix == ".json":
        return read_vllm_lens(content, reading)
    raise ModelError(
        f"{path.name}: the ending {suffix or 'of nothing'} says no format; allowed are"
        " .safetensors, .pt, .gguf and .json (vllm-lens)"
    )


def _reading(
    path: Path, content: bytes, shape: Shape, asked: tuple[str | None, int | None, Rows | None]
) -> Reading:
    """How to read a file that is not steerproof's own, with what is known beforehand."""
    name, layer, rows = asked
    told, position = told_by_name(path.stem)
    source = Source(
        file=path.name,
        sha256=sha256(content).hexdigest(),
        format=path.suffix.lower().removeprefix("."),
        place="",
    )
    known = Provenance(
        model=shape.model,
        revision=shape.revision,
        model_type=shape.model_type,
        blocks=shape.blocks,
        position=position,
        sign=None if position is None else "towards the trait",
        scaled=None if position is None else False,
        source=source,
    )
    return Reading(shape=shape, name=name or told, known=known, layer=layer, rows=rows)


def _fitting(
    directions: Sequence[Direction], shape: Shape | None, file: str
) -> tuple[Direction, ...]:
    """Own directions, if they fit the model."""
    if shape is None:
        return tuple(directions)
    for one in directions:
        if len(one.vector) != shape.hidden_size or one.layer >= shape.blocks:
            raise SteeringError(
                f"{file}: {one.name!r} is {len(one.vector)} wide, at block {one.layer};"
                f" {shape.model} is {shape.hidden_size} wide and has {shape.blocks} blocks"
            )
    return tuple(directions)


def export(
    directions: Sequence[Direction], form: Format, out: Path, coefficient: float = 1.0
) -> dict[Path, bytes]:
    """The files of an export, as bytes: the caller writes them.

    Args:
        directions: What is exported; every format but `steerproof` takes one name.
        form: One of `FORMATS`.
        out: Where it will lie; EasySteer's specification names the vector's file beside it.
        coefficient: What an engine multiplies by in use. In a `gguf` it is multiplied in unless
            it is 1; `steerproof` and `persona-vectors` hold the directions themselves.

    Raises:
        SteeringError: The format cannot hold them.
    """
    if form in ("steerproof", "persona-vectors") and coefficient != 1.0:
        raise SteeringError(f"{form} holds directions without a coefficient; leave it out")
    if form == "steerproof":
        return {out: write_own(directions)}
    if form == "persona-vectors":
        return {out: persona_vectors(directions)}
    if form == "gguf":
        return {out: write_gguf(directions, None if coefficient == 1.0 else coefficient)}
    if form == "vllm-lens":
        return {out: vllm_lens(directions, coefficient)}
    vector = out.with_suffix(".gguf")
    return {
        vector: write_gguf(directions),
        out.with_suffix(".json"): easysteer(directions, coefficient, vector.name),
    }
