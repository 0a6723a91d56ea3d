"""safetensors files: steerproof's own, which says everything, steering-lite's, and plain ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from steerproof.codec import plain, read_record
from steerproof.errors import ModelError, SteeringError
from steerproof.exchange.direction import Direction, Provenance, as_vector
from steerproof.exchange.tables import Reading, read_tensors

FORMAT = "steerproof"
"""Key of the metadata that says what the tensors of an own file are."""
VERSION = 1
_ADDITIVE = ("mean_diff",)
"""Methods of steering-lite that add `coeff * v` to a block's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What an own file says of one tensor."""

    key: str
    name: str
    layer: int
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """The metadata of an own file."""

    version: int
    operation: str
    """Always `add`."""
    hook: str
    """Always `block output`: the residual stream after the block."""
    layer_base: int
    """Always 0: the first block is block 0."""
    directions: tuple[_Entry, ...]


def write_own(directions: Sequence[Direction]) -> bytes:
    """A safetensors file with tensors `NAME.LN` and, as metadata, all that is known of them.

    The same directions give the same bytes.

    Raises:
        SteeringError: Two have one name and block.
    """
    entries = [
        _Entry(
            key=f"{one.name}.L{one.layer}",
            name=one.name,
            layer=one.layer,
            provenance=one.provenance,
        )
        for one in directions
    ]
    tensors = {
        entry.key: as_vector(one.vector) for entry, one in zip(entries, directions, strict=True)
    }
    if len(tensors) < len(entries):
        raise SteeringError("two directions have one name and block; a file holds each once")
    contents = _Contents(
        version=VERSION,
        operation="add",
        hook="block output",
        layer_base=0,
        directions=tuple(entries),
    )
    return save(tensors, metadata={FORMAT: json.dumps(plain(contents), ensure_ascii=False)})


def metadata_of(path: Path) -> dict[str, str]:
    """The texts that a safetensors file says of itself.

    Raises:
        ModelError: It is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise ModelError(f"{path.name} is no readable safetensors file: {error}") from None


def read_own(content: bytes, metadata: Mapping[str, str], file: str) -> tuple[Direction, ...]:
    """The directions of an own file, as they were written.

    Raises:
        IntegrityError: What it says of itself cannot be understood.
        ModelError: A tensor is missing, or it is of another version.
    """
    contents = read_record(_Contents, metadata[FORMAT].encode(), file)
    said = (contents.version, contents.operation, contents.hook, contents.layer_base)
    if said != (VERSION, "add", "block output", 0):
        raise ModelError(
            f"{file} is of version {contents.version}, {contents.operation} at {contents.hook},"
            f" first layer {contents.layer_base}; this steerproof reads version {VERSION}, which"
            " adds at block output, first layer 0"
        )
    tensors = load(content)
    missing = [entry.key for entry in contents.directions if entry.key not in tensors]
    if missing:
        raise ModelError(f"{file} lacks the tensors {', '.join(missing)} that it speaks of")
    return tuple(
        Direction(
            name=entry.name,
            layer=entry.layer,
            vector=as_vector(tensors[entry.key]),
            provenance=entry.provenance,
        )
        for entry in contents.directions
    )


def read_steering_lite(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], reading: Reading
) -> tuple[Direction, ...]:
    """The directions of steering-lite's file: `layerN.v`, N a 0-based block.

    Raises:
        ModelError: Its method does something else than adding a vector to a block's output.
    """
    file = reading.file
    try:
        config = dict(json.loads(metadata["cfg"]))
        coefficient = float(config.get("coeff", 1.0))
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"{file}: its cfg is none of steering-lite: {error}") from None
    method = config.get("method")
    if method not in _ADDITIVE or config.get("target_submodule"):
        raise ModelError(
            f"{file}: method {method!r} at {config.get('target_submodule') or 'block output'};"
            f" importable are {', '.join(_ADDITIVE)} at block output, which add a vector"
        )
    if config.get("target", "residual") != "residual":
        raise ModelError(f"{file}: target {config['target']!r}; importable is 'residual'")
    odd = [key for key in tensors if not key.startswith("layer") or not key.endswith(".v")]
    if odd:
        raise ModelError(f"{file}: unknown tensors {', '.join(odd)}; expected are layerN.v")
    by_block = {
        f"layers.{key.removeprefix('layer').removesuffix('.v')}": value
        for key, value in tensors.items()
    }
    known = replace(
        reading.known,
        coefficient=coefficient,
        scaled=False,
        sign="towards the positive prompts",
    )
    return read_tensors(by_block, replace(reading, known=known))
