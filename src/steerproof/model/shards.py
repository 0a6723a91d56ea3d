"""Several pools at once in one process: each in a thread, with a replica of the base of its own.

The matrices of a small model are too small to be shared between threads, but two pools run side by
side: torch gives the interpreter away while it computes. What belongs to a pool (forwards, hooks,
routings, the kind of attention) hangs on the modules, so each thread has modules of its own; the
weights are the same memory.
"""

import copy
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from queue import SimpleQueue
from threading import Event, Lock, Semaphore
from typing import Generic, TypeVar

import torch

from steerproof.model.base import Base, find_blocks

T = TypeVar("T")
Send = Callable[[T], None]
"""Gives an item to the consumer; waits while it is far behind."""

MOST_SHARDS = 4
"""More would wait for one another: only one of them at a time runs Python."""
_AHEAD = 64
"""Items of each shard that may wait for the consumer."""


class StoppedError(Exception):
    """Raised by `Send` in a shard's thread: nobody wants the rest."""


def shard_count(device: torch.device, most: int) -> int:
    """How many shards torch's threads are divided among: one on a GPU.

    Args:
        device: Where the base is.
        most: As many shards as the work can use.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), MOST_SHARDS, most))


def replica(base: Base) -> Base:
    """The same weights under modules of their own: what hangs on one is not seen by the other."""
    tensors = chain(base.model.parameters(), base.model.buffers())
    model = copy.deepcopy(base.model, {id(tensor): tensor for tensor in tensors})
    return replace(base, model=model, blocks=find_blocks(model)[1])


def side_by_side(works: Sequence[Callable[[Send[T]], None]]) -> Generator[T, None, None]:
    """Run works at once, each in a thread, and yield what they send as it comes.

    Torch's threads are divided among them, and in the calling thread too until all have ended. An
    error in one stops the others and is raised here. Closing the iterator stops them as well: a
    work is stopped when it sends, so it should do so often.
    """
    items: SimpleQueue[T | Future[None]] = SimpleQueue()
    room, stopped = Semaphore(_AHEAD * len(works)), Event()

    def send(item: T) -> None:
        room.acquire()
        if stopped.is_set():
            raise StoppedError
        items.put(item)

    threads = torch.get_num_threads()
    each = max(1, threads // len(works))
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(each)
        # A number of threads holds for the thread that sets it.
        pool = ThreadPoolExecutor(len(works), "shard", torch.set_num_threads, (each,))
        stack.enter_context(pool)
        # On leaving, before the threads are joined: whoever waits to send is woken, and stops.
        stack.callback(room.release, len(works))
        stack.callback(stopped.set)
        running = {pool.submit(work, send) for work in works}
        for future in running:
            future.add_done_callback(items.put)
        while running:
            item = items.get()
            if isinstance(item, Future):
                running.remove(item)
                item.result()
            else:
                room.release()
                yield item


class Supply(Generic[T]):
    """What waits, dealt to shards; one that has run dry takes half of what another still has."""

    def __init__(self, items: Sequence[T], size: Callable[[T], int], shards: int) -> None:
        """Deal items in order: neighbours stay together, and every shard gets about as much.

        Args:
            items: In the order in which each shard will take its own.
            size: What an item costs, above 0.
            shards: How many to deal to.
        """
        self._shares: list[deque[T]] = [deque() for _ in range(shards)]
        self._lock = Lock()
        total, before = sum(map(size, items)), 0
        for item in items:
            # The shard in whose stretch of the whole its middle lies.
            self._shares[(2 * before + size(item)) * shards // (2 * total)].append(item)
            before += size(item)

    def take(self, shard: int, *, dry: bool) -> T | None:
        """The shard's next item, None when there is none.

        Args:
            shard: Whose.
            dry: Whether it may take from the others.
        """
        with self._lock:
            mine = self._shares[shard]
            if dry and not mine:
                other = max(self._shares, key=len)
                mine.extendleft(other.pop() for _ in range(-(-len(other) // 2)))
            return mine.popleft() if mine else None
