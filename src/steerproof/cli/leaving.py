"""The end of the command: what is loaded is not taken down piece by piece.

Python would do so with every object of torch and transformers, which takes two seconds in which
nothing happens that anybody waits for.
"""

import atexit
import sys
import threading
from contextlib import suppress
from os import _exit

_LARGE = "torch"


def leave(code: str | int | None) -> None:
    """End the process with what it was to end with, if it is worth it; else return.

    What was registered for the end is called first, as Python would.

    Args:
        code: Of `SystemExit`.
    """
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if _LARGE not in sys.modules or isinstance(code, str) or len(others) > 1:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, full, or not there
            stream.flush()
    _exit((code or 0) & 0xFF)
