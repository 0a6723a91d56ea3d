"""A step of the pool as a CUDA graph: launching its kernels takes longer than running them.

A graph is captured when the shapes of a step have changed and replayed while they stay. A replay
reads the same memory as the capture did, so whatever changes from step to step (tokens, positions,
the newest column of the keys) is written into its old place. On a CPU nothing is captured.
"""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor


class CapturedForward:
    """Runs a forward pass, on a GPU as a graph where it can."""

    def __init__(self, device: torch.device) -> None:
        """Nothing is captured yet.

        Args:
            device: Where the model is.
        """
        self.captures = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None
        self._warm = False
        if self.captures:
            self._stream = torch.cuda.Stream(device)
            self._memory = torch.cuda.graph_pool_handle()

    def forget(self) -> None:
        """A shape, or the place of a tensor, has changed: capture again."""
        self._output = None  # The graph itself must live until the next one shares its memory.

    def __call__(self, forward: Callable[[], Tensor]) -> Tensor:
        """The result of `forward`; its memory is written over by the next call.

        Args:
            forward: Makes no copy from the host and reads no result back, at least once it is warm.
        """
        if not self.captures:
            return forward()
        if not self._warm:
            return self._warmed(forward)
        if self._graph is None or self._output is None:
            self._graph, self._output = self._captured(forward)
        self._graph.replay()
        return self._output

    def _warmed(self, forward: Callable[[], Tensor]) -> Tensor:
        """Run once uncaptured, so that libraries allocate what they keep."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            output = forward()
        here.wait_stream(self._stream)
        output.record_stream(here)
        self._warm = True
        return output

    def _captured(self, forward: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Not torch.cuda.graph(): it empties the allocator's cache each time.
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._memory)
            try:
                output = forward()
            except BaseException:
                with suppress(RuntimeError):  # The first error says what was wrong.
                    graph.capture_end()
                raise
            graph.capture_end()
        here.wait_stream(self._stream)
        return graph, output
