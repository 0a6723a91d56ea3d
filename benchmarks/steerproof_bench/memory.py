"""The largest memory that a piece of work takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_EVERY = 0.02


class Peak:
    """Largest memory while it was watched, bytes."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Watch the memory of the work inside.

    On a GPU it is what torch allocated there. On a CPU it is the resident memory of the whole
    process, looked at every 20 ms: what was in memory before counts too.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peak, done), daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _watch(peak: Peak, done: threading.Event) -> None:
    process = psutil.Process()
    while True:
        peak.bytes = max(peak.bytes, process.memory_info().rss)
        if done.wait(_EVERY):
            return
