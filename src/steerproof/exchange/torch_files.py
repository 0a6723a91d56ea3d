"""`.pt` files of plain tensors: persona_vectors, assistant-axis, and dictionaries of vectors.

They are the one place where torch's own format is read, since that is what the field has: with
`weights_only`, which builds tensors and containers and runs no code. Any other pickle is refused.
"""

import io
import pickle  # noqa: TID251 - for the class of the error alone
import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steerproof.errors import ModelError, SteeringError
from steerproof.exchange.direction import Direction, one_name
from steerproof.exchange.tables import Nested

_PERSONA_VECTOR = re.compile(r"(.+)_(prompt_avg|response_avg|prompt_last)_diff")
_POSITIONS = {
    "prompt_avg": "mean of the prompt",
    "response_avg": "mean of the response",
    "prompt_last": "last prompt token",
}
_WAY_OUT = (
    "run where you trust it, with the library that wrote it:"
    " `from safetensors.torch import save_file;"
    " save_file({f'layers.{n}': v for n, v in vector.layer_activations.items()},"
    " 'NAME.safetensors')`, and import that"
)


def read_torch(content: bytes, file: str) -> Tensor | Nested:
    """The tensors of a `.pt` file: one, or a dictionary by name or layer.

    Raises:
        ModelError: It is damaged, or holds anything that only running code could build.
    """
    try:
        with warnings.catch_warnings():  # of an unusual protocol, before it is refused
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(  # noqa: TID251 - tensors only: weights_only runs no code
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
    except pickle.UnpicklingError as error:
        shown = str(error).partition("\n")[0]
        raise ModelError(
            f"{file} is a pickle of objects, which would run code on being read ({shown});"
            f" {_WAY_OUT}"
        ) from None
    except Exception as error:  # noqa: BLE001  whatever the bytes of a damaged one ask for
        raise ModelError(f"{file} is no readable .pt file: {error}") from None
    return _checked(loaded, file)


def _checked(loaded: object, file: str) -> Tensor | Nested:
    if isinstance(loaded, Tensor):
        return loaded
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(
            f"{file} holds a {type(loaded).__name__}; a tensor, or a dictionary of tensors by name"
            " or layer, was expected"
        )
    checked: dict[str, Tensor | Nested] = {}
    for key, value in loaded.items():
        if not isinstance(key, str | int):
            raise ModelError(f"{file}: key {key!r} is neither a name nor a layer")
        checked[str(key)] = _checked(value, f"{file}, {key!r}")
    return checked


def told_by_name(stem: str) -> tuple[str, str | None]:
    """Name and position that persona_vectors writes into a file name: `evil_response_avg_diff`."""
    match = _PERSONA_VECTOR.fullmatch(stem)
    return (match[1], _POSITIONS[match[2]]) if match else (stem, None)


def persona_vectors(directions: Sequence[Direction]) -> bytes:
    """A file as persona_vectors reads it: `[blocks + 1, hidden]`, row k is block k-1.

    Blocks without a direction, and the embedding, are rows of zeros.

    Raises:
        SteeringError: They have several names, or the depth of their model is unknown.
    """
    by_layer = one_name(directions)
    blocks = {one.provenance.blocks for one in by_layer.values()}
    depth = blocks.pop() if len(blocks) == 1 else None
    if depth is None:
        raise SteeringError(
            "persona_vectors' file has a row for each block, and the model's depth is unknown;"
            " import the direction again with --model"
        )
    width = len(next(iter(by_layer.values())).vector)
    table = torch.zeros(depth + 1, width)
    for layer, one in by_layer.items():
        table[layer + 1] = one.vector
    written = io.BytesIO()
    torch.save(table, written)  # noqa: TID251 - a plain tensor, for a reader that takes no other
    return written.getvalue()
