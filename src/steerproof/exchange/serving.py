"""What inference engines that steer per request take: vllm-lens' vectors, EasySteer's specs."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow
import torch

from steerproof.errors import ModelError
from steerproof.exchange.direction import Direction, one_name
from steerproof.exchange.tables import Reading, read_tensors

_LARGEST = 2**30
"""Most bytes of a vector's file, unpacked."""
_NO_VECTOR = (
    *(ValueError, TypeError, OSError, RuntimeError),
    *(LookupError, AttributeError, ArithmeticError),
)
"""What reading JSON can end in that is no vector."""


def vllm_lens(directions: Sequence[Direction], coefficient: float) -> bytes:
    """A `SteeringVector` of vllm-lens as JSON: added at every token, raw vector times scale.

    Args:
        directions: Of one name, at different blocks.
        coefficient: Its `scale`.
    """
    by_layer = one_name(directions)
    stacked = torch.stack([one.vector for one in by_layer.values()]).numpy().astype("<f4")
    vector = {
        "activations": {
            "data": base64.b64encode(stacked.tobytes()).decode("ascii"),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(stacked.shape),
        },
        "layer_indices": list(by_layer),
        "scale": coefficient,
        "norm_match": False,
        "position_indices": None,
    }
    return json.dumps(vector, indent=1).encode() + b"\n"


def read_vllm_lens(content: bytes, reading: Reading) -> tuple[Direction, ...]:
    """The directions of a `SteeringVector` that is added, as it is, at every token.

    Raises:
        ModelError: It is no such JSON, or does something else than adding everywhere.
    """
    file = reading.file
    try:
        found = json.loads(content)
        table = _tensor(found["activations"])
        layers = [int(layer) for layer in found["layer_indices"]]
        scale = float(found.get("scale", 1.0))
    except _NO_VECTOR as error:
        raise ModelError(f"{file} is no SteeringVector of vllm-lens: {error!r}") from None
    if found.get("norm_match") or found.get("position_indices") or table.ndim != 2:
        raise ModelError(
            f"{file} rescales to the residual's norm, or is for some positions alone; importable"
            " are vectors that are added as they are, at every token"
        )
    if len(layers) != len(table):
        raise ModelError(f"{file} has {len(table)} vectors for {len(layers)} layers")
    known = replace(reading.known, coefficient=scale, scaled=False)
    by_block = {f"layers.{layer}": row for layer, row in zip(layers, table, strict=True)}
    return read_tensors(by_block, replace(reading, known=known))


def _tensor(told: dict[str, Any]) -> torch.Tensor:
    """The numbers of a tensor as vllm-lens writes it: plain, or since its version 1 with zstd."""
    content, kind = base64.b64decode(told["data"]), np.dtype(told["dtype"])
    shape = [int(size) for size in told["shape"]]
    how = told.get("compression")
    if how == "zstd":
        size = math.prod(shape) * kind.itemsize
        if min(shape, default=0) < 1 or size > _LARGEST:
            raise ValueError(f"shape {shape} is none of a steering vector")
        content = pyarrow.decompress(content, decompressed_size=size, codec="zstd", asbytes=True)
    elif how is not None:
        raise ValueError(f"compression {how!r} is not read; vllm-lens writes zstd")
    tensor = torch.from_numpy(np.frombuffer(content, dtype=kind).copy()).reshape(shape)
    return tensor.view(torch.bfloat16) if "bfloat16" in told.get("original_dtype", "") else tensor


def easysteer(directions: Sequence[Direction], coefficient: float, vector_file: str) -> bytes:
    """A steering specification of EasySteer, for a control vector that lies beside it.

    Args:
        directions: Those in the file.
        coefficient: Its `scale`; the file holds the directions themselves.
        vector_file: Path of the GGUF, as the server sees it.
    """
    spec = {
        "source": vector_file,
        "algorithm": "direct",
        "scale": coefficient,
        "layers": list(one_name(directions)),
        "normalize": False,
        "apply": {"prompt": "all", "generation": "all"},
    }
    return json.dumps({"vectors": [spec]}, indent=1).encode() + b"\n"
