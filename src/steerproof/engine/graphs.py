"""Steps as CUDA graphs: launching a step's kernels takes longer than running them.

One graph for each batch size, captured when that size comes for the second time and replayed from
then on: many sizes come once, while a batch fills, and a capture takes as long as three steps. A
replay reads and writes the memory that the capture did, so whatever changes from step to step
(tokens, positions, block tables, adapters, pushes) is written into its old place. Off a GPU, and
over several, nothing is captured.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

# Sizes of a batch on a GPU: each costs a capture, and padding costs a row's arithmetic.
_SMALL_SIZES = (16, 64, 128, 256, 384, 512)
_SIZE_STEP = 256


def capturable(devices: Sequence[torch.device]) -> bool:
    """Whether steps of a model on these devices can be a graph: it is of one GPU."""
    return len(devices) == 1 and devices[0].type == "cuda"


class CapturedSteps:
    """Runs a step of one of several sizes, on a GPU as a graph from the second time on."""

    def __init__(self, devices: Sequence[torch.device], *, emptying: bool = False) -> None:
        """Nothing is captured yet.

        Args:
            devices: Where the model is; over several nothing is captured.
            emptying: Whether to give back before a capture what plain steps have left: much, where
                they keep what a backward pass needs, and of no use to a graph, whose memory is its
                own.
        """
        self.captures = capturable(devices)
        self._emptying = emptying
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._seen: set[Hashable] = set()
        if self.captures:
            self._stream = torch.cuda.Stream(devices[0])
            self._memory = torch.cuda.graph_pool_handle()

    def padded(self, count: int) -> int:
        """The size to which a batch of so many sequences is padded, if steps are captured."""
        if not self.captures:
            return count
        for size in _SMALL_SIZES:
            if count <= size:
                return size
        return -(-count // _SIZE_STEP) * _SIZE_STEP

    def __call__(self, size: Hashable, step: Callable[[], None]) -> None:
        """Do a step.

        Args:
            size: Steps of one size have the same shapes.
            step: Leaves its result in memory of its caller's. It makes no copy from the host and
                reads no result back.
        """
        if not self.captures:
            step()
            return
        if size not in self._seen:
            self._seen.add(size)
            with self._aside():
                step()
            return
        if size not in self._graphs:
            self._graphs[size] = self._captured(step)
        self._graphs[size].replay()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On the stream that captures, in its order with the caller's."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            yield
        here.wait_stream(self._stream)

    def _captured(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        # Not torch.cuda.graph(): it empties the allocator's cache each time.
        graph = torch.cuda.CUDAGraph()
        with self._aside():
            if self._emptying:
                torch.cuda.empty_cache()
            graph.capture_begin(pool=self._memory)
            try:
                step()
            except BaseException:
                with suppress(RuntimeError):  # The first error says what was wrong.
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph
