"""What the machine at hand can do at most: matrix products per second, bytes copied per second."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Measured floating-point operations per second of a large square matrix product.

    Args:
        device: Where.
        dtype: Of the matrices.
        size: Side; by default large enough to be bound by arithmetic on the device.
    """
    side = size or (8192 if device.type == "cuda" else 1024)
    # Drawn at random: a GPU multiplies constants faster than real data.
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * side**3 / _seconds(lambda: torch.mm(a, b), device)


def copy_bandwidth(device: torch.device, size: int | None = None) -> float:
    """Measured bytes read and written per second by a copy that fits into no cache.

    Args:
        device: Where.
        size: Bytes of the copy.
    """
    size = size or ((1 << 32) if device.type == "cuda" else (1 << 28))
    source = torch.zeros(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2.0 * size / _seconds(lambda: target.copy_(source), device)


def synchronise(device: torch.device) -> None:
    """Wait for everything that was given to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _seconds(work: Callable[[], Tensor], device: torch.device, repeats: int = 10) -> float:
    times = []
    for _ in range(repeats):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])
