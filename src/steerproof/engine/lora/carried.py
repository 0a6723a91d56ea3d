"""Matrices carried between host and GPU, many at once.

An adapter has hundreds of small ones, and each copy by itself makes the host wait for the GPU, tens
of microseconds whatever its size. So they travel side by side as one vector, and are parts of it
where they arrive.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_AT_A_TIME = 1 << 22
"""Numbers that one thread copies at a time."""
_KEEPER = ThreadPoolExecutor(1, thread_name_prefix="room")

Matrices = Mapping[str, Tensor]
"""By name, of any shapes."""
Room = Future[Tensor] | None
"""A vector of the host that will be ready; None where nothing travels."""


def to_device(matrices: Matrices, device: torch.device) -> dict[str, Tensor]:
    """Matrices of the host on a device; those of several number types travel one by one."""
    kinds = {matrix.dtype for matrix in matrices.values()}
    if _near(device) or len(kinds) != 1:
        return {name: matrix.to(device) for name, matrix in matrices.items()}
    flat = [matrix.contiguous().flatten() for matrix in matrices.values()]
    size, pinned = sum(map(len, flat)), device.type == "cuda"
    whole = torch.empty(size, dtype=kinds.pop(), pin_memory=pinned)
    return _parts(_joined(flat, whole).to(device), matrices)


def room_for(numbers: int, dtype: torch.dtype, device: torch.device) -> Room:
    """New memory of the host for so many numbers of a device, made ready by a thread.

    Its pages are found one by one when they are first written to: 0.3 s for an adapter at 7 billion
    weights, with sixteen threads as with one.
    """
    if _near(device):
        return None
    kind = np.float64 if dtype == torch.float64 else np.float32
    return _KEEPER.submit(lambda: torch.from_numpy(np.full(numbers, 0, dtype=kind)))


def to_host(matrices: Matrices, dtype: torch.dtype, room: Room = None) -> dict[str, Tensor]:
    """Copies of matrices of one device on the host, contiguous and of this type.

    What lies across is turned where it is: a CPU takes long for it.

    Args:
        matrices: What is read.
        dtype: Of the copies.
        room: Where to, as `room_for` gives it; None for memory that is yet to be found.
    """
    if not matrices or _near(next(iter(matrices.values())).device):
        return {n: torch.empty(m.shape, dtype=dtype).copy_(m) for n, m in matrices.items()}
    whole = torch.cat([matrix.to(dtype).flatten() for matrix in matrices.values()])
    into = torch.empty(whole.shape, dtype=dtype) if room is None else room.result()
    return _parts(_copied(whole, into), matrices)


def _near(device: torch.device) -> bool:
    """Whether nothing travels."""
    return device.type == "cpu"


def _joined(vectors: Sequence[Tensor], into: Tensor) -> Tensor:
    """Vectors of the host side by side.

    By numpy, in one call and one thread: torch deals each of hundreds of small ones to all cores,
    whose threads wait for each other where anything else is at work. An adapter of 39 MB took 130
    ms so, and 25 by threads of ours, which take turns at Python's lock.
    """
    np.concatenate([_bytes(vector) for vector in vectors], out=_bytes(into))
    return into


def _bytes(vector: Tensor) -> np.ndarray:
    """Of any number type, those that numpy has not among them."""
    return vector.detach().view(torch.uint8).numpy()


def _copied(whole: Tensor, into: Tensor) -> Tensor:
    """A vector of a device, in memory of the host."""
    pieces = zip(into.split(_AT_A_TIME), whole.split(_AT_A_TIME), strict=True)
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda piece: piece[0].copy_(piece[1]), pieces))
    return into


def _parts(whole: Tensor, like: Matrices) -> dict[str, Tensor]:
    """The parts of a vector, one shaped like each of these matrices."""
    parts = whole.split([matrix.numel() for matrix in like.values()])
    shaped = zip(like.items(), parts, strict=True)
    return {name: part.view(matrix.shape) for (name, matrix), part in shaped}
