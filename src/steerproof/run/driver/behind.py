"""Writing what has ended while the work goes on: a GPU need not stand still for a disk."""

import os
import queue
import threading
import traceback
from collections.abc import Callable

from steerproof.run.driver.worker import Ended, WorkReport

_MOST = 128
"""Units that have ended and are not written. Cells end by dozens in one step, adapters by sixteen,
which a disk has taken long before the next sixteen. Whoever has more waits."""


class Behind:
    """One thread that writes and reports units one after another, as they are put.

    What dies with the process are the units that were put and not yet reported.
    """

    def __init__(self, say: Callable[[WorkReport], None]) -> None:
        """Start the thread.

        Args:
            say: Reports, on that thread alone. Where it cannot, the process ends: nobody hears it.
        """
        self._say = say
        self._ended: queue.Queue[Ended] = queue.Queue(_MOST)
        threading.Thread(target=self._write, daemon=True).start()

    def put(self, ended: Ended) -> None:
        """Have it written after all that was put before; wait for that if it is to be waited for.

        Where as many as may be are still to be written, wait for the first of them.
        """
        self._ended.put(ended)
        if ended.waited_for:
            self.wait()

    def wait(self) -> None:
        """Until all that was put is written and reported."""
        self._ended.join()

    def _write(self) -> None:
        while True:
            try:
                self._say(self._ended.get().write())
            except BaseException:  # noqa: BLE001  without this thread the process would wait for ever
                traceback.print_exc()
                os._exit(1)
            self._ended.task_done()
