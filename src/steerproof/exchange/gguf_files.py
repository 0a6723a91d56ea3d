"""GGUF control vectors, as repeng and llama.cpp read and write them.

`direction.N` is added to the output of block N, counted from 0, by both. llama.cpp never adds
anything at block 0 and refuses a file that has one there.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import torch

from steerproof.codec import plain
from steerproof.errors import ModelError, SteeringError
from steerproof.exchange.direction import Direction, one_name
from steerproof.exchange.tables import Reading, read_tensors

_ARCHITECTURE, _ARCHITECTURE_KEY = "controlvector", "general.architecture"
_PREFIX = "direction."
_HINT = f"{_ARCHITECTURE}.model_hint"
_SCALED = "steerproof.scaled"


def read_gguf(path: Path, reading: Reading) -> tuple[Direction, ...]:
    """The directions of a control vector.

    Raises:
        ModelError: It is no control vector, or one for another architecture.
        SteeringError: A vector does not fit the model.
    """
    try:
        file = gguf.GGUFReader(path)
        told = {key: _field(file, key) for key in (_ARCHITECTURE_KEY, _HINT, _SCALED)}
        vectors = {t.name: torch.from_numpy(t.data.copy()) for t in file.tensors}
    except Exception as error:  # noqa: BLE001  whatever the bytes of a damaged one happen to mean
        raise ModelError(f"{path.name} is no readable GGUF file: {error}") from None
    architecture, hint = told[_ARCHITECTURE_KEY], told[_HINT]
    if architecture != _ARCHITECTURE:
        raise ModelError(
            f"{path.name} is a GGUF file of architecture {architecture!r}; a control vector has"
            f" {_ARCHITECTURE!r}"
        )
    if hint not in (None, reading.shape.model_type):
        raise ModelError(
            f"{path.name} is for a {hint} model, {reading.shape.model} is a"
            f" {reading.shape.model_type}"
        )
    strange = [name for name in vectors if not name.removeprefix(_PREFIX).isdecimal()]
    if strange:
        raise ModelError(f"{path.name}: unknown tensors {', '.join(strange)}; expected {_PREFIX}N")
    by_block = {f"layers.{name.removeprefix(_PREFIX)}": v for name, v in vectors.items()}
    scaled = told[_SCALED]
    known = replace(reading.known, scaled=scaled if isinstance(scaled, bool) else None)
    return read_tensors(by_block, replace(reading, known=known))


def write_gguf(directions: Sequence[Direction], coefficient: float | None = None) -> bytes:
    """A control vector of directions of one name.

    Besides the three keys that readers know, a free one says whether a coefficient is multiplied
    in, and another everything else that is known.

    Args:
        directions: At different blocks.
        coefficient: Multiply it in; None leaves the directions as they are.

    Raises:
        SteeringError: They have several names, or the model's architecture is unknown.
    """
    by_layer = one_name(directions)
    known = next(iter(by_layer.values())).provenance
    if known.model_type is None:
        raise SteeringError(
            "a control vector says its model's architecture, which is unknown; import the direction"
            " again with --model"
        )
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "vector.gguf"
        writer = gguf.GGUFWriter(path, _ARCHITECTURE)
        writer.add_string(_HINT, known.model_type)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(by_layer))
        if coefficient is not None or known.scaled is not None:
            writer.add_bool(_SCALED, coefficient is not None or bool(known.scaled))
        writer.add_string("steerproof.provenance", json.dumps(_told(by_layer), ensure_ascii=False))
        for layer, one in by_layer.items():
            vector = one.vector if coefficient is None else coefficient * one.vector
            writer.add_tensor(f"{_PREFIX}{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _told(by_layer: dict[int, Direction]) -> dict[str, Any]:
    return plain({str(layer): one.provenance for layer, one in by_layer.items()})


def _field(file: gguf.GGUFReader, key: str) -> str | bool | None:
    field = file.get_field(key)
    return None if field is None else field.contents()
