"""What a process is allowed here: addresses, threads, and variables that take them away.

Libraries do not ask for what they take. Where they do not get it they interrupt the process, abort
it or panic, so each is asked for beforehand, and refused in words.
"""

import os
import re
import sys
import threading

from steerproof.errors import MachineError

_LEAST_ADDRESSES = 2 << 30
"""Bytes of address space that a process needs with the engine in it, or with a board's threads;
measured: 1.6e9 and 1.9e9."""

_ENGINE_THREADS = 12
"""Threads of the engine's libraries beside those that are as many as cores; measured: 10."""


def require_surroundings(what: str) -> None:
    """Refuse what needs the engine's libraries where the process cannot carry them.

    Args:
        what: What needs them, for the message.

    Raises:
        MachineError: It may map less memory or begin fewer threads than they take, Python was told
            to drop what one of them needs, or numba has no thread.
    """
    require_addresses(what)
    require_threads(what, _ENGINE_THREADS + 4 * threads_of_numbers())
    if sys.flags.optimize > 1:
        raise MachineError(
            f"Python drops docstrings (-OO, or PYTHONOPTIMIZE={sys.flags.optimize}), and"
            " transformers, which reads them, cannot be imported; unset PYTHONOPTIMIZE, or set it"
            " to 1"
        )
    threads = os.environ.get("NUMBA_NUM_THREADS", "")
    if re.fullmatch(r"\s*(0+|-\d+)\s*", threads):
        raise MachineError(
            f"NUMBA_NUM_THREADS is {threads!r} in the environment, and {what} takes a thread;"
            " unset it, or set it to 1 or more"
        )


def require_addresses(what: str) -> None:
    """Refuse what large libraries are loaded for where the process may not map them.

    Args:
        what: What needs them, for the message.

    Raises:
        MachineError: It may map less than they take, before any model or table.
    """
    addresses = _address_limit()
    if addresses is not None and addresses < _LEAST_ADDRESSES:
        raise MachineError(
            f"a process may have {addresses / 2**20:,.0f} MiB of addresses here (ulimit -v), and"
            f" {what} takes {_LEAST_ADDRESSES / 2**20:,.0f} MiB to begin with; raise the limit"
        )


def require_threads(what: str, count: int) -> None:
    """Refuse what libraries begin threads for, where they would not get them.

    They do not ask: OpenBLAS interrupts the process then, others abort it or panic.

    Args:
        what: What needs them, for the message.
        count: So many beside those that are there.

    Raises:
        MachineError: So many cannot be begun at once.
    """
    over = threading.Event()
    begun: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            begun.append(thread)
    except RuntimeError as error:
        raise MachineError(
            f"{len(begun)} more threads can be had here, and {what} takes {count}: end other"
            " processes of this user, or raise their number (ulimit -u)"
        ) from error
    finally:
        over.set()
        for thread in begun:
            thread.join()


def threads_of_numbers() -> int:
    """Threads that numpy's library begins when it is imported, beside the one there is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        asked = os.environ.get(name, "")
        if asked.isdecimal() and 0 < len(asked) < 5:
            return min(cores, int(asked)) - 1
    return cores - 1


def _address_limit() -> int | None:
    """Bytes of addresses that this process may have; None without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
