"""Work on many things at once that falls back to fewer, down to the one that is at fault."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch

from steerproof.errors import SteerproofError

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


def in_halves(
    asked: Mapping[K, T], together: Callable[[Mapping[K, T]], Iterator[tuple[K, R]]]
) -> Iterator[tuple[K, R | SteerproofError]]:
    """Do what is asked together; if that fails, each half of what is left by itself.

    So it also goes where all adapters together are more than memory holds. What becomes of one
    must not depend on what it is done beside; then nothing changes by that.

    Args:
        asked: What is to be done, by its key.
        together: Does some of it, and gives back each key with what became of it.

    Yields:
        Each key with its result, or with the error that it brings by itself.

    Raises:
        torch.OutOfMemoryError: One by itself is more than memory holds.
    """
    left = dict(asked)
    if not left:
        return
    try:
        for key, result in together(asked):
            del left[key]
            yield key, result
        return
    except (SteerproofError, torch.OutOfMemoryError) as error:
        if len(left) == 1:
            if not isinstance(error, SteerproofError):
                raise
            yield next(iter(left)), error
            return
    # Not above, where the error would hold whatever filled the memory.
    keys = list(left)
    half = (len(keys) + 1) // 2
    for part in (keys[:half], keys[half:]):
        yield from in_halves({key: left[key] for key in part}, together)
