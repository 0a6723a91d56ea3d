"""Steps as CUDA graphs: launching a step's kernels takes longer than running them.

One graph for each batch size, captured when that size is first seen and replayed from then on. A
replay reads and writes the memory that the capture did, so whatever changes from step to step
(tokens, positions, block tables, adapters, pushes) is written into its old place. Off a GPU nothing
is captured.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import torch

# Sizes of a batch on a GPU: each costs a capture, and padding costs a row's arithmetic.
_SMALL_SIZES = (16, 64, 128, 256, 384, 512)
_SIZE_STEP = 256


class CapturedSteps:
    """Runs a step of one of several sizes, on a GPU as a graph.

    A step that can be done twice is rehearsed and captured when its size is first seen. One that
    cannot, since it adds to something, is only done then, and captured when that size comes again.
    """

    def __init__(
        self,
        device: torch.device,
        rehearsing: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        """Nothing is captured yet.

        Args:
            device: Where the model is.
            rehearsing: What to be in while a step is done that will be done again; None where a
                step cannot be done twice.
        """
        self.captures = device.type == "cuda"
        self._rehearsing = rehearsing
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._seen: set[Hashable] = set()
        if self.captures:
            self._stream = torch.cuda.Stream(device)
            self._memory = torch.cuda.graph_pool_handle()

    def padded(self, count: int) -> int:
        """The size to which a batch of so many sequences is padded; off a GPU none is."""
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
        if self._rehearsing is None and size not in self._seen:
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
            if self._rehearsing is not None:
                with self._rehearsing():
                    step()  # Uncaptured: libraries choose and load their kernels.
            else:
                # What plain passes have left is of no use to a graph, whose memory is its own.
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
