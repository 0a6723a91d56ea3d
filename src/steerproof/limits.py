"""Limits for work whose length somebody else's file decides: patterns, templates, files.

A regular expression can take longer than the universe has lasted, a chat template is a program, and
a pipe in place of a file never ends. Each is given a bound that honest use is far from.
"""

import errno
import re
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import regex

try:
    import resource
except ImportError:  # Windows
    resource = None

_SEARCH_SECONDS = 2.0
"""Longest search for a pattern in one text; a usual one takes microseconds."""
_MAX_PATTERN = 1_000
"""Longest pattern, in characters."""
_HANDED = ("/dev/fd/", "/dev/stdin")
"""Where a command finds the output of another: `analyze <(zcat rates.csv.gz) zlt`."""


class TooMuchError(Exception):
    """The work was given up at its limit; the message says which."""


def whole_file(path: Path) -> bytes:
    """The bytes of a file that somebody names: of a pipe only where a shell has put it there.

    Raises:
        OSError: It cannot be read, or is a directory, a device, or a pipe, which may have no end.
    """
    handed = path.as_posix().startswith(_HANDED)
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or (handed and stat.S_ISFIFO(mode))):
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path.read_bytes()


class Pattern:
    """A regular expression of Python's kind, searched under a limit of time."""

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        r"""Compile it.

        Args:
            text: The expression.
            ignore_case: Whether `a` is also `A`.

        Raises:
            ValueError: It is none, or longer than `_MAX_PATTERN`.
        """
        if len(text) > _MAX_PATTERN:
            raise ValueError(f"it has {len(text)} characters; allowed: {_MAX_PATTERN}")
        flags = regex.VERSION0 | (regex.IGNORECASE if ignore_case else 0)
        try:
            re.compile(text)  # the other library knows more than the documents promise
            self._compiled = regex.compile(text, flags)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise ValueError(str(error)) from None

    def found_in(self, text: str) -> bool:
        """Whether it occurs in a text.

        Raises:
            TooMuchError: The search took longer than `_SEARCH_SECONDS`.
        """
        with _searching(self._compiled.pattern):
            return self._compiled.search(text, timeout=_SEARCH_SECONDS) is not None

    def is_all_of(self, text: str) -> bool:
        """Whether it matches a text from its beginning to its end.

        Raises:
            TooMuchError: The search took longer than `_SEARCH_SECONDS`.
        """
        with _searching(self._compiled.pattern):
            return self._compiled.fullmatch(text, timeout=_SEARCH_SECONDS) is not None


@contextmanager
def _searching(pattern: str) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, MemoryError) as error:
        raise TooMuchError(
            f"the pattern {pattern[:60]!r} was not through with one text after"
            f" {_SEARCH_SECONDS:g} s: it repeats what is repeated already; write it without nested"
            " repeats"
        ) from error


@contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Give up what takes longer than so many seconds, or asks for more memory than so much.

    Only in the main thread: no other one can be interrupted. Memory only where the system bounds
    it.

    Args:
        seconds: Time on the clock.
        memory: Bytes of address space beyond what the process has now.

    Raises:
        TooMuchError: It did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with _timed(seconds), _at_most(memory):
            yield
    except MemoryError:
        raise TooMuchError(f"it asked for more than {memory >> 20} MiB of memory") from None
    except RecursionError:
        raise TooMuchError("it calls itself without end") from None


@contextmanager
def _timed(seconds: float) -> Iterator[None]:
    """An alarm, with the alarm that was set before set again afterwards."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooMuchError(f"it was not through after {seconds:g} s")

    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            rest = max(1e-3, left - (time.monotonic() - began))
            signal.setitimer(signal.ITIMER_REAL, rest, interval)


@contextmanager
def _at_most(memory: int) -> Iterator[None]:
    size = _address_space()
    if resource is None or size is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    asked = size + memory
    limits = [asked, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int | None:
    """Bytes of address space of this process; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * 4096 if resource is None else pages * resource.getpagesize()
    return None
