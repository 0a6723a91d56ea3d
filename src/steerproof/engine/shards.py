"""Several pools at once in one process: each in a thread, with a replica of the base of its own.

The matrices of a small model are too small to be shared between threads, but two pools run side by
side: torch gives the interpreter away while it computes. What belongs to a pool (forwards, hooks,
routings, the kind of attention) hangs on the modules, so each thread has modules of its own; the
weights are the same memory.
"""

import copy
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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


@contextmanager
def divided_threads(shards: int) -> Iterator[int]:
    """One shard's part of torch's threads, in this thread and those that begin inside."""
    threads = torch.get_num_threads()
    each = max(1, threads // shards)
    torch.set_num_threads(each)
    try:
        yield each
    finally:
        torch.set_num_threads(threads)


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

    with ExitStack() as stack:
        each = stack.enter_context(divided_threads(len(works)))
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
    """What waits, dealt to shards; one that runs dry takes over what waits longer elsewhere."""

    def __init__(self, items: Sequence[T], size: Callable[[T], int], shards: int) -> None:
        """Deal items in order: neighbours stay together, and every shard gets about as much.

        Args:
            items: In the order in which each shard will take its own.
            size: What an item costs, above 0.
            shards: How many to deal to.
        """
        self._size = size
        self._shares: list[deque[T]] = [deque() for _ in range(shards)]
        self._lock = Lock()
        total, before = sum(map(size, items)), 0
        for item in items:
            # The shard in whose stretch of the whole its middle lies.
            self._shares[(2 * before + size(item)) * shards // (2 * total)].append(item)
            before += size(item)
        self._waiting = [sum(map(size, share)) for share in self._shares]

    def take(self, shard: int, load: int) -> T | None:
        """The shard's next item, or, when it has none, another's last; None when it should not.

        Args:
            shard: Whose.
            load: What the shard has in hand. It takes another's only if more than that waits there.
        """
        with self._lock:
            most = max(range(len(self._shares)), key=self._waiting.__getitem__)
            if self._shares[shard]:
                whose, item = shard, self._shares[shard].popleft()
            elif self._waiting[most] > load:
                whose, item = most, self._shares[most].pop()
            else:
                return None
            self._waiting[whose] -= self._size(item)
            return item
