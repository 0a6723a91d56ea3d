"""What the end of a run needs, done by threads of the driver while it waits for its workers.

While the last units are at work the driver has nothing to do, and afterwards nobody else has: the
libraries that draw are imported once the first orders are out, and a report's groundwork is laid
once the score is there. It changes nothing but time. What fails here is done again, and fails,
where it is needed.
"""

import importlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from steerproof.garbage import importing
from steerproof.run.driver.summary import Listener, Progress
from steerproof.run.graph.names import SCORE
from steerproof.run.store.story import Event

if TYPE_CHECKING:
    from steerproof.run.commands.report_inputs import Groundwork

MODULES = ("steerproof.run.commands.concluding", "matplotlib.backends.backend_svg")
"""What is imported at the end of a run."""


class Ahead:
    """Hears what happens in one call of the driver, and begins what can be done by then."""

    def __init__(self, lay: "Callable[[], Groundwork]", modules: Sequence[str] = MODULES) -> None:
        """Begin nothing.

        Args:
            lay: Lays the groundwork of the report from the units that are finished.
            modules: What to import.
        """
        self._lay, self._modules = lay, modules
        self._laid: Groundwork | None = None
        self._threads: list[threading.Thread] = []
        self._over = False

    def beside(self, listen: Listener) -> Listener:
        """Hear the events that a listener hears."""

        def hear(event: Event, progress: Progress) -> None:
            listen(event, progress)
            if event.what == "unit-started" and not self._threads:
                self._begin(self._import)
            if event.what == "unit-done" and event.unit == SCORE:
                self._begin(self._lay_groundwork)

        return hear

    def groundwork(self) -> "Groundwork | None":
        """What was laid, when all has ended; None if it was not, or could not be."""
        for thread in self._threads:
            thread.join()
        return self._laid

    def end(self) -> None:
        """Begin nothing more and wait: a thread that goes on while Python ends may abort it."""
        self._over = True
        self.groundwork()

    def _begin(self, do: Callable[[], None]) -> None:
        if self._over:
            return
        thread = threading.Thread(target=do, daemon=True)
        with suppress(RuntimeError):  # no thread can be had
            thread.start()
            self._threads.append(thread)

    def _import(self) -> None:
        for name in self._modules:
            with suppress(Exception), importing():
                if not self._over:
                    importlib.import_module(name)

    def _lay_groundwork(self) -> None:
        with suppress(Exception):
            self._laid = self._lay()
