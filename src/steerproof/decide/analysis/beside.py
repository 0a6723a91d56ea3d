"""Parts of a number that do not depend on one another, worked on by several threads.

Each has a stream of random numbers of its own, so they change nothing but time: numpy gives way
while it draws, sorts and multiplies.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = min(4, os.cpu_count() or 1)


def beside(work: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """The work on each part, in their order."""
    listed = list(parts)
    if len(listed) < 2:
        return [work(part) for part in listed]
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(work, listed))
