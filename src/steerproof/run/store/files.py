"""Writing files so that a crash, a full disk or a second process never leaves half of one."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from steerproof.errors import DiskFullError, ExperimentError, MachineError
from steerproof.limits import whole_file
from steerproof.run.store.faults import fault_point

TEMPORARY = ".tmp-"
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
_OTHERWISE = {errno.EISDIR, errno.ENOTDIR}


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`: after a crash the file holds all old or all new bytes.

    Every file of a run directory outside of a unit is written here, and only here.

    Raises:
        DiskFullError: No space, quota or file-size limit reached; the old file is intact.
        MachineError: The directory cannot be written.
    """
    temporary = path.with_name(temporary_name())
    try:
        with explained(path, len(data)):
            write_synced(temporary, data)
            temporary.replace(path)
            sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_as_hashed(path: Path, sha256: str) -> bytes:
    """What a file holds, as a unit's key has it.

    Raises:
        ExperimentError: It cannot be read, or is another one by now.
    """
    try:
        content = whole_file(path)
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ExperimentError(f"{path} changed while the run was under way; run again")
    return content


def log_file(path: Path) -> BinaryIO:
    """Open a log for appending: the one kind of file that is written bit by bit."""
    make_directory(path.parent)
    with explained(path, 0):
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def make_directory(path: Path) -> None:
    """Create a directory that only its owner may enter, with parents, and make its entry durable.

    Raises:
        MachineError: The parent cannot be written, or something else stands there.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    with explained(path, 0):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as error:  # a file, or a link to nowhere
            raise in_the_way(path) from error
        sync_directory(path.parent)


@contextmanager
def explained(path: Path, needed: int) -> Iterator[None]:
    """Turn a full disk, and a place that cannot be written, into errors for the user.

    Args:
        path: What is being written.
        needed: Its size in bytes, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise disk_full(path, needed) from error
        if error.errno in _NOT_ALLOWED:
            raise MachineError(
                f"cannot write {path}: {error.strerror}. Finished units are kept; make the "
                "directory writable or choose another one with --dir"
            ) from error
        if error.errno in _OTHERWISE:
            raise in_the_way(path) from error
        raise


def in_the_way(path: Path) -> MachineError:
    """The error for a directory where a file has to be, or for a file where a directory has to."""
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    kind = "a directory" if there.is_dir() else "no directory"
    return MachineError(
        f"cannot write {path}: {there} is {kind}. Finished units are kept; move it away, and the"
        " same command goes on"
    )


def disk_full(path: Path, needed: int) -> DiskFullError:
    """The error for a disk, quota or file-size limit that is used up, with its bytes."""
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    available = shutil.disk_usage(place).free
    return DiskFullError(
        f"no space for {path}: {needed:,} bytes needed, {available:,} bytes available on its disk "
        "(a quota or file-size limit may be lower). Finished units are kept: free space and run "
        "the same command again"
    )


def temporary_name() -> str:
    """A name for something half-written, not used by any other process."""
    return f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"


def write_synced(path: Path, data: bytes, kind: str = "") -> None:
    """Create a new file with these bytes and wait until they are on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        fault_point("fsync.before", kind)
        os.fsync(descriptor)
        fault_point("fsync.after", kind)
    finally:
        os.close(descriptor)


def write_files(directory: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write files below a directory, made if it is not there; returns their paths as text.

    Raises:
        DiskFullError: No space.
    """
    for name, content in files.items():
        make_directory((directory / name).parent)
        write_file(directory / name, content)
    return [str(directory / name) for name in files]


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
