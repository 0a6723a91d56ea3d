"""How much fits: keys and values against free memory."""

import psutil
import torch
from transformers.cache_utils import DynamicLayer

from steerproof.engine.blocks import NoBlockError
from steerproof.engine.cache.handed import kept
from steerproof.errors import ModelError
from steerproof.model.base import Base


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: of a GPU, of a CPU, or the blocks in it."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, NoBlockError)) or (
        "not enough memory" in text or "can't allocate memory" in text
    )


def free_bytes(base: Base) -> int:
    """Memory that keys and values may take."""
    if base.device.type == "cuda":
        cached = torch.cuda.memory_reserved(base.device) - torch.cuda.memory_allocated(base.device)
        return int(0.8 * (torch.cuda.mem_get_info(base.device)[0] + cached))
    return int(0.5 * psutil.virtual_memory().available)


@torch.inference_mode()
def bytes_per_token(base: Base, longest: int) -> int:
    """Bytes of the keys and values of one position, measured on a forward pass of one token.

    Raises:
        ModelError: The model keeps something else than keys and values of all positions.
    """
    one = torch.tensor([[base.pad_id]], device=base.device)
    output = base.model(input_ids=one, use_cache=True)
    total = 0
    for place, layer in enumerate(kept(output).layers):
        window = getattr(layer, "sliding_window", longest)
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            raise ModelError(
                f"block {place} of {type(base.model).__name__} keeps a {type(layer).__name__}, not"
                " keys and values: such a model cannot be pooled"
            )
        if window is not None and window < longest:
            raise ModelError(
                f"block {place} of {type(base.model).__name__} has a sliding window of {window},"
                f" but rows may reach {longest} positions; ask for fewer new tokens"
            )
        total += layer.keys.nbytes + layer.values.nbytes
    return total
