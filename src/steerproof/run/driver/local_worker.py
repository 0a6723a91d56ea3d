"""A worker process of the local executor: orders on standard input, reports on a pipe.

Started as `python -m steerproof.run.driver.local_worker DESCRIPTOR`. It lives as long as its
standard input: when the driver dies, however it dies, the pipe ends and so does the worker.
"""

import os
import queue
import signal
import sys
import threading

from steerproof.run.driver.worker import order_from_json, perform

STOP = "stop"


def main(descriptor: int) -> None:
    """Do orders until there are no more.

    Args:
        descriptor: The file descriptor that reports are written to.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    orders: queue.Queue[str] = queue.Queue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(orders, stopping), daemon=True).start()
    with os.fdopen(descriptor, "w", encoding="utf-8") as reports:
        while not stopping.is_set():
            for report in perform(order_from_json(orders.get())):
                reports.write(report.to_json() + "\n")
                reports.flush()
                if stopping.is_set():
                    break
    os._exit(0)  # the listener waits for standard input, which an orderly exit would wait for too


def _listen(orders: "queue.Queue[str]", stopping: threading.Event) -> None:
    """Pass orders on; end the process with its standard input."""
    for line in sys.stdin:
        if line.strip() == STOP:
            stopping.set()
        else:
            orders.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
