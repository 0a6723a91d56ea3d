"""What a plain installation lacks, and which extra brings it.

`pip install steerproof` reads, analyses, plans and reports; the libraries that compute with a model
come with `steerproof[run]`, the board's with `steerproof[board]`.
"""

import os
import re
import sys
import threading
import traceback
from importlib.util import find_spec

from steerproof.errors import MachineError

ENGINE = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
    *("numba", "accelerate", "gguf"),
)
"""Libraries of the extra `run`, by the names that they are imported under."""
_LEAST_ADDRESSES = 2 << 30
"""Bytes of address space that a process needs with the engine in it, or with a board's threads;
measured: 1.6e9 and 1.9e9."""

_ENGINE_THREADS = 12
"""Threads of the engine's libraries beside those that are as many as cores; measured: 10."""


def engine_installed() -> bool:
    """Whether a model can be computed with here; nothing is imported to know."""
    return all(_there(name) for name in ENGINE)


def lacking(error: ModuleNotFoundError) -> MachineError | None:
    """What to tell somebody whose installation lacks a library of the engine; None if another.

    Args:
        error: Of the import, or of the look at a library's version.
    """
    missing = (error.name or "").partition(".")[0]
    return without(missing, "run") if missing in ENGINE else None


def unreadable(error: ValueError) -> MachineError | None:
    """The variable of the environment that a library of the engine cannot be imported with.

    Libraries read their settings as they are imported, and some end on a value that they do not
    know. Their error shows the value or the variable's name.

    Args:
        error: That ended a command.

    Returns:
        None if no library was being imported, or its error shows no variable.
    """
    importing = [
        library
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
        and (library := frame.f_globals.get("__name__", "").partition(".")[0]) in ENGINE
    ]
    said = str(error).strip()
    set_here = sorted((name, value) for name, value in os.environ.items() if value)
    names = [name for name, value in set_here if repr(value) in said]
    names = names or [name for name, _ in set_here if re.search(rf"\b{re.escape(name)}\b", said)]
    if not importing or not names:
        return None
    return MachineError(
        f"{importing[-1]} cannot be imported with the environment's {' or '.join(names)}:"
        f" {said.splitlines()[0]}; unset it, or set a value that the library knows"
    )


def require_engine(what: str) -> None:
    """Refuse what needs a model's libraries before anything else is done for it.

    Args:
        what: What needs them, for the message.

    Raises:
        MachineError: One is not installed, Python was told to drop what one needs, numba has no
            thread, or the process may map less memory than they take: they would end it without a
            word of Python's.
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
    for name in ENGINE:
        if not _there(name):
            raise without(name, "run", what)


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


def without(missing: str, extra: str, what: str = "this command") -> MachineError:
    """The error that a library of an extra is missing, with the way out."""
    return MachineError(
        f"{missing} is not installed, and {what} needs it; install it with:"
        f" pip install 'steerproof[{extra}]'"
    )


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # an import that is blocked, or half there
        return False
