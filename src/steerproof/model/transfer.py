"""Copies to a GPU that the host does not wait for, and attention that it need not plan."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device.

    A copy from pageable memory waits until the GPU has done everything it was given, and then the
    GPU waits for the host; one from pinned memory is queued.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def unplanned_attention(device: torch.device) -> AbstractContextManager[object]:
    """While inside, attention on a GPU is not cuDNN's.

    cuDNN plans every new shape on the host, 2 ms a layer: an eighth of the host's time in training,
    where the rows of hardly two micro-batches are of one length.
    """
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
