"""A worker process of the local executor: orders on standard input, reports on a pipe.

Started as `python -m steerproof.run.driver.local_worker DESCRIPTOR [MODULE...]`, it imports these
modules while it waits for its first order. It lives as long as its
standard input: when the driver dies, however it dies, the pipe ends and so does the worker.
"""

import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from steerproof.run.driver.behind import Behind
from steerproof.run.driver.worker import WorkReport, ends, order_from_json

STOP = "stop"
LOG = "log "
"""Before the name of the file, as JSON, that it prints to from then on."""


def main(descriptor: int, modules: Sequence[str]) -> None:
    """Do orders until there are no more.

    Args:
        descriptor: The file descriptor that reports are written to.
        modules: What orders will need.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    orders: queue.Queue[str] = queue.Queue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(orders, stopping), daemon=True).start()
    for name in modules:
        with suppress(Exception):  # the order that needs it says what is wrong with it
            importlib.import_module(name)
    # Half a million objects live as long as the process: whenever Python looks for garbage among
    # all it has, they cost a third of a second.
    gc.freeze()
    reports = os.fdopen(descriptor, "w", encoding="utf-8")

    def say(report: WorkReport) -> None:
        reports.write(report.to_json() + "\n")
        reports.flush()

    behind = Behind(say)
    while not stopping.is_set():
        for ended in ends(order_from_json(orders.get())):
            behind.put(ended)
            if stopping.is_set():
                break
    behind.wait()
    os._exit(0)  # the listener waits for standard input, which an orderly exit would wait for too


def _listen(orders: "queue.Queue[str]", stopping: threading.Event) -> None:
    """Pass orders on; end the process with its standard input."""
    for line in sys.stdin:
        if line.strip() == STOP:
            stopping.set()
        elif line.startswith(LOG):
            with suppress(OSError):  # the driver has just made the file
                _print_to(Path(json.loads(line.removeprefix(LOG))))
        else:
            orders.put(line)
    os._exit(0)


def _print_to(path: Path) -> None:
    with path.open("ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
