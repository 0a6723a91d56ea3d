"""What every command shares: its usual arguments, and how it says what it found."""

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from steerproof.cli import waiting
from steerproof.errors import DiskFullError, MachineError, SteerproofError
from steerproof.extras import lacking, unreadable, without
from steerproof.text import clean

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or SIGTERM has ended."""
Source = Annotated[str, typer.Argument(help="Path of an experiment file, or a shipped name (zlt).")]
RunDir = Annotated[Path, typer.Argument(help="A run directory.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON value on standard output.")]
Where = Annotated[Path | None, typer.Option("--dir", help="Run directory; default runs/NAME.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PLACE=VALUE", help="Another value, as layers.primary=18."),
]
Device = Annotated[
    str,
    typer.Option(
        help="A torch device: cpu, cuda, cuda:1; cuda:0+1 for a model over two GPUs; auto picks."
    ),
]


def say(value: Any, as_json: bool, human: Callable[[], object]) -> None:
    """Print a value or record as JSON, or what `human` makes of it.

    Raises:
        DiskFullError: Standard output is a file on a full disk.
    """
    waiting.end()
    if sys.stdout is None:  # closed before we began
        return
    with _writing():
        _print(value, as_json, human)
        sys.stdout.flush()


def flush() -> None:
    """Write what was printed and still waits: help, which `say` does not print.

    Raises:
        DiskFullError: Standard output is a file on a full disk. Of standard error there is nobody
            to be told.
    """
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)
    if sys.stdout is not None:
        with _writing():
            sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Around what is printed. A reader may stop before the end (`| head`): that is no error."""
    try:
        yield
    except BrokenPipeError:
        _drop(sys.stdout)
    except OSError as error:
        _drop(sys.stdout)
        if error.errno != errno.EBADF:
            raise DiskFullError(f"standard output cannot be written: {error.strerror}") from error


def _print(value: Any, as_json: bool, human: Callable[[], object]) -> None:
    if as_json:
        from steerproof.codec import plain  # pydantic, which help and version do without

        narrow = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
        sys.stdout.write(json.dumps(plain(value), indent=1, ensure_ascii=narrow) + "\n")
        return
    shown = human()
    # Without markup: a persona called [red] is a name.
    console = Console(highlight=False, markup=False, soft_wrap=isinstance(shown, str))
    with console.capture() as captured:  # its own answer to a broken pipe is to exit
        console.print(shown)
    text, encoding = captured.get(), sys.stdout.encoding or "utf-8"
    # A letter that the terminal has not is named, and no reason to fail.
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _drop(stream: TextIO | None) -> None:
    """Send the rest nowhere, so that the interpreter has nothing to complain of at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def fill_streams() -> None:
    """Give a standard stream that was closed before we began to nowhere.

    The next file to be opened would take its number, and what some library writes to standard
    error would stand in that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def complain(text: str) -> None:
    """Write an error message to standard error, where there still is one."""
    waiting.end()
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"error: {clean(text)}\n")
            sys.stderr.flush()
    except (OSError, ValueError):
        _drop(sys.stderr)


def refusal(error: Exception) -> SteerproofError | None:
    """What the machine or its installation refused where nobody foresaw it, as our error.

    Args:
        error: Python's, or a library's while it was imported.

    Returns:
        None if it was not that.
    """
    kept = "finished units are kept, and the same command goes on"
    if isinstance(error, ModuleNotFoundError):
        return lacking(error)
    if isinstance(error, ValueError):
        return unreadable(error)
    if isinstance(error, MemoryError):
        return MachineError(f"not enough memory; {kept}")
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename is not None else ""
        told = f"{error.strerror or error}{where}; {kept}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return DiskFullError(told) if full else MachineError(told)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return MachineError(f"no more threads, or no memory for one; {kept}")
    return None


def keep_own_rights() -> None:
    """Let the file mode mask take rights from others alone.

    Under a mask of 0777 nobody but root can read the files that he has just written.
    """
    os.umask(os.umask(0o077) & 0o077)


def forget_odd_sizes() -> None:
    """Drop sizes that no terminal has, which tables are multiplied by, and a window for figures.

    Figures are files here; matplotlib refuses to be imported under a name that it does not know.
    """
    os.environ["MPLBACKEND"] = "agg"
    for name in ("COLUMNS", "LINES"):
        value = os.environ.get(name, "1")
        if not (value.isdecimal() and len(value) < 5 and int(value) > 0):
            del os.environ[name]


def require_place() -> None:
    """Refuse to work from a directory that is gone: no relative path leads anywhere.

    Raises:
        MachineError: It was deleted after somebody stepped into it.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise MachineError(
            f"the current directory cannot be used: {error.strerror}; it was deleted or moved"
            " since you stepped into it. cd into one that is there, and type the command again"
        ) from None


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Around imports that an extra brings: one that is missing says how to install it.

    Raises:
        MachineError: A library of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "steerproof":
            raise
        raise without(missing, extra) from None
