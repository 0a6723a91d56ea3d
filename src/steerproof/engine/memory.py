"""How much fits: keys and values against free memory."""

import psutil
import torch
from transformers.cache_utils import DynamicLayer

from steerproof.engine.blocks import NoBlockError
from steerproof.engine.cache.handed import kept
from steerproof.errors import ModelError
from steerproof.model.base import Base

_TOKENS, _MOST_TOKENS, _NUMBERS = 8192, 2**16, 2**25


def pass_tokens(device: torch.device, width: int) -> int:
    """Tokens, padding included, of one forward pass that keeps nothing to go back over.

    A GPU takes less time for a narrow model's 8,192 than the host takes to launch their kernels: it
    is given so many that their residuals are as much as those of a wide one.

    Args:
        device: Where it is computed.
        width: Of the residual stream.
    """
    if device.type != "cuda":
        return _TOKENS
    return max(_TOKENS, min(_MOST_TOKENS, _NUMBERS // width))


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: of a GPU, of a CPU, or the blocks in it."""
    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, NoBlockError)) or (
        "not enough memory" in text or "can't allocate memory" in text
    )


def unused_bytes(device: torch.device) -> int:
    """Memory of a GPU that holds nothing, be it free or kept by torch for what comes."""
    kept_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept_back


def free_bytes(device: torch.device) -> int:
    """Memory of a device that keys and values may take."""
    if device.type == "cuda":
        return int(0.8 * unused_bytes(device))
    return int(0.5 * psutil.virtual_memory().available)


def positions_within(base: Base, longest: int, kv_bytes: int | None = None) -> int:
    """Positions of all rows together whose keys and values fit, on every device of the base.

    Args:
        base: The frozen model.
        longest: Positions of the longest row.
        kv_bytes: How much all of them may take; None for what `free_bytes` says of each device.

    Raises:
        ModelError: As `bytes_per_token`.
    """
    each = bytes_per_token(base, longest)
    if kv_bytes is not None:
        return kv_bytes // sum(each.values())
    return min(free_bytes(device) // size for device, size in each.items())


@torch.inference_mode()
def bytes_per_token(base: Base, longest: int) -> dict[torch.device, int]:
    """Bytes of the keys and values of one position, measured on a forward pass of one token.

    Returns:
        By the device that they are on.

    Raises:
        ModelError: The model keeps something else than keys and values of all positions.
    """
    one = torch.tensor([[base.pad_id]], device=base.device)
    output = base.model(input_ids=one, use_cache=True)
    total: dict[torch.device, int] = {}
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
        device = layer.keys.device
        total[device] = total.get(device, 0) + layer.keys.nbytes + layer.values.nbytes
    return total
