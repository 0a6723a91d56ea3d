"""A cap on the device time of a run: it stops in good order when the cap is reached, and says so.

Device time is what somebody pays for: every worker from its first unit to its last, whether a unit
ended well or not; on a GPU machine a worker is a GPU, elsewhere a core. What earlier calls of the
same run used is counted from its ledger.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from steerproof.errors import SteerproofError
from steerproof.run.driver.executors import Executor
from steerproof.run.store.directory import RunDirectory
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.story import Story

POLL_SECONDS = 0.5
REACHED = "cap-reached"
"""Event of the ledger."""


@dataclass(slots=True, kw_only=True)
class Allowance:
    """How much device time a run may use in all."""

    hours: float
    """The cap."""
    reached: bool = False
    used: float = 0.0
    """Device hours used so far, by all calls."""

    def __post_init__(self) -> None:
        if not self.hours > 0:
            raise SteerproofError(f"device hours must be above 0, not {self.hours:g}")

    @property
    def words(self) -> str:
        """What there is to say when the run was stopped by it."""
        return f"stopped at its cap of {self.hours:g} device hours ({self.used:.3g} used)"

    @contextmanager
    def watching(self, directory: RunDirectory, executor: Executor) -> Iterator[None]:
        """Ask the run to stop when the cap is reached.

        Raises:
            SteerproofError: Earlier calls have used it up; nothing was begun.
        """
        before = device_seconds(read_ledger(directory.path) or Story())
        self.used = before / 3600
        if self.used >= self.hours:
            raise SteerproofError(
                f"earlier tries used {self.used:.3g} of {self.hours:g} device hours: allow more"
            )
        devices, began, over = executor.free(), time.monotonic(), threading.Event()

        def watch() -> None:
            while not over.wait(POLL_SECONDS):
                self.used = (before + devices * (time.monotonic() - began)) / 3600
                if self.used >= self.hours and not directory.stopping.is_set():
                    self.reached = True
                    directory.stopping.set()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
        if self.reached:
            directory.ledger.add_event(REACHED, hours=self.hours, used=round(self.used, 4))


def device_seconds(story: Story) -> float:
    """Device time of all tries in a ledger: each worker from its first unit to its last."""
    spans: dict[tuple[str, int], tuple[float, float]] = {}
    for attempt in story.attempts:
        who = (attempt.host, attempt.pid)
        ended = attempt.started if attempt.ended is None else attempt.ended
        first, last = spans.get(who, (attempt.started, ended))
        spans[who] = (min(first, attempt.started), max(last, ended))
    # Of a worker that is not known (pid 0) only what its units took is known.
    known = [last - first for (_, pid), (first, last) in spans.items() if pid]
    return sum((*known, *(a.seconds or 0.0 for a in story.attempts if not a.pid)), start=0.0)
