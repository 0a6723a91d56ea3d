"""One run directory, one process, on filesystems that honour kernel locks and on those that do not.

Three things together: a kernel lock (`flock`), which a dead process cannot keep; a lease, a file
that names its holder and whose time of change is the heartbeat, for filesystems where `flock`
says yes to everybody; and a fencing token, the lease's number, checked at each commit so that a
process that was paused while another took over commits nothing when it wakes.

Leases are `lock/lease-<token>.json`, created by a hard link, which exactly one process can win.
The newest one is the holder's. They are never deleted: a token is never given twice.
"""

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from steerproof.errors import LockedError, MachineError
from steerproof.run.store.faults import fault_point
from steerproof.run.store.files import explained, make_directory, temporary_name, write_file
from steerproof.run.store.holder import Holder, host_name, read_holder, this_process
from steerproof.text import span

try:
    import fcntl
except ImportError:
    raise MachineError(
        "a run directory needs the file locks of Linux or macOS; on Windows, use WSL (analyze,"
        " power and directions need no run directory and work without)"
    ) from None

BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 60.0
_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a filesystem without hard links says."""
_LEASE = re.compile(r"lease-(\d{6,18})\.json", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockState:
    """What the lock of a run directory looks like from outside."""

    holder: Holder | None
    """The newest lease, None if there was none yet."""
    heartbeat_age: float
    """Seconds since its holder last gave a sign of life."""

    @property
    def expired(self) -> bool:
        """Whether the heartbeat is too old to be that of a live, running process."""
        return self.heartbeat_age > EXPIRY_SECONDS

    @property
    def held(self) -> bool:
        """Whether the run directory belongs to a process that is not known to be gone."""
        return self.holder is not None and not self.holder.released and not self.holder.is_dead()

    @property
    def live(self) -> bool:
        """Whether its holder can be taken to be at work: here, or elsewhere and heard of lately."""
        here = self.holder is not None and self.holder.host == host_name()
        return self.held and (here or not self.expired)


class RunLock:
    """A lock that this process holds."""

    def __init__(
        self, run: Path, holder: Holder, kernel: IO[bytes] | None, stolen: bool = False
    ) -> None:
        self.run = run
        self.holder = holder
        """This process."""
        self.stolen = stolen
        """Whether it was taken from a process that is not known to be gone."""
        self._kernel = kernel
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        self._beat.start()

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.holder.token

    def check(self) -> None:
        """Make sure that nobody took the run directory over.

        Raises:
            LockedError: Somebody did; nothing may be committed by this process any more.
        """
        refuse_if_taken_over(self.run, newest_token(self.run), self.token)

    def release(self) -> None:
        """Give the run directory back."""
        fault_point("release.before")
        self._ended.set()
        self._beat.join()
        if newest_token(self.run) == self.token:
            record = asdict(replace(self.holder, released=True))
            write_file(_lease_path(self.run, self.token), json.dumps(record).encode())
        if self._kernel is not None:
            self._kernel.close()
        fault_point("release.after")

    def _heartbeat(self) -> None:
        lease = _lease_path(self.run, self.token)
        while not self._ended.wait(BEAT_SECONDS):
            try:
                os.utime(lease)  # needs no space on a full disk
            except OSError:
                continue  # the filesystem is away: the lease expires by itself


def newest_token(run: Path) -> int:
    """Number of the newest lease, 0 if there is none yet.

    Files of other names, such as a sync tool's copies, are no leases.
    """
    names = (_LEASE.fullmatch(lease.name) for lease in (run / "lock").glob("lease-*.json"))
    return max((int(name[1]) for name in names if name is not None), default=0)


def refuse_if_taken_over(run: Path, newest: int, ours: int) -> None:
    """Stop a process that was paused while another took its run directory over.

    Args:
        run: The run directory.
        newest: The largest fencing token that was given.
        ours: This process's.

    Raises:
        LockedError: Ours is not the newest.
    """
    if newest > ours:
        raise LockedError(
            f"{run} was taken over by another process (token {newest}, ours is {ours}) while this "
            "one was paused; nothing more is written by this one"
        )


@contextmanager
def locked(run: Path, command: str, steal: bool = False) -> Iterator[RunLock]:
    """Hold a run directory for as long as the block lasts.

    Args:
        run: The run directory; created, for its owner only, if it does not exist.
        command: What the other process is told that this one does.
        steal: Take over from a process whose heartbeat has expired.

    Raises:
        LockedError: Another process holds it.
        MachineError: The directory cannot be written.
    """
    lock = acquire(run, command, steal)
    try:
        yield lock
    finally:
        lock.release()


def acquire(run: Path, command: str, steal: bool = False) -> RunLock:
    """Take a run directory's lock; see `locked`."""
    make_directory(run / "lock")
    kernel = _take_kernel(run)
    try:
        state = lock_state(run)
        _refuse_if_held(run, state, kernel_held=kernel is None, steal=steal)
        holder = _take_lease(run, state.holder.token if state.holder else 0, command)
    except BaseException:
        if kernel is not None:
            kernel.close()
        raise
    return RunLock(run, holder, kernel, stolen=state.held or kernel is None)


def lock_state(run: Path, *, probe: bool = True) -> LockState:
    """Look at a run directory's lock without taking it.

    Args:
        run: The run directory.
        probe: Whether a file may be made for a moment, to ask another machine's file server for
            its time; without it this machine's clock is taken.
    """
    token = newest_token(run)
    if token == 0:
        return LockState(holder=None, heartbeat_age=0.0)
    lease = _lease_path(run, token)
    holder = read_holder(lease, token)
    here = holder.host == host_name() or not probe
    now = time.time() if here else _filesystem_time(run)
    try:
        beat = lease.stat().st_mtime
    except OSError:
        beat = now
    return LockState(holder=holder, heartbeat_age=max(0.0, now - beat))


def kernel_lock_works(directory: Path) -> bool:
    """Whether a second process is refused a kernel lock in this directory: tried, not assumed.

    Raises:
        MachineError: The directory cannot be written.
    """
    probe = directory / f"{temporary_name()}-lock"
    try:
        with explained(probe, 0), probe.open("xb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            second = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _SECOND_PROCESS, str(probe)],
                check=False,
                timeout=30,
            )
            return second.returncode == _REFUSED
    finally:
        probe.unlink(missing_ok=True)


_REFUSED = 11
_SECOND_PROCESS = f"""
import fcntl, sys
with open(sys.argv[1], "rb") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit({_REFUSED})
"""


def _take_kernel(run: Path) -> IO[bytes] | None:
    """Try the kernel lock: an open file that has it, or None if another process does."""
    path = run / "lock" / "kernel"
    with explained(path, 0):
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        return file  # the filesystem has no kernel locks: the lease alone decides
    return file


def _filesystem_time(run: Path) -> float:
    """Now, by the clock that stamps another machine's lease: a file server's may differ."""
    probe = run / "lock" / temporary_name()
    try:
        probe.touch(exist_ok=False)
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return time.time()
    return now


def _refuse_if_held(run: Path, state: LockState, kernel_held: bool, steal: bool) -> None:
    if not state.held and not kernel_held:
        return
    if state.expired and steal:
        return
    holder = state.holder
    if holder is None or not state.held:
        raise LockedError(f"{run} is being taken by another process just now: try again")
    age = span(time.time() - holder.taken)
    message = (
        f"{run} is in use by process {holder.pid} on {holder.host.partition(' ')[0]}: "
        f"{holder.command!r}, for {age}, last sign of life {span(state.heartbeat_age)} ago. "
    )
    if not state.expired:
        raise LockedError(message + "Wait until it has ended, or choose another --dir")
    raise LockedError(
        message + f"That is longer than {span(EXPIRY_SECONDS)}: if you know that it will not "
        "go on, add --steal to take over"
    )


def _take_lease(run: Path, newest: int, command: str) -> Holder:
    """Create the next lease; exactly one process can.

    Raises:
        LockedError: Another process was faster.
    """
    holder = this_process(newest + 1, command)
    draft = run / "lock" / temporary_name()
    try:
        write_file(draft, json.dumps(asdict(holder)).encode())
        _link(draft, _lease_path(run, holder.token))
    except (FileExistsError, FileNotFoundError) as error:
        raise LockedError(f"{run} was taken by another process just now") from error
    finally:
        draft.unlink(missing_ok=True)
    if newest_token(run) != holder.token:
        raise LockedError(f"{run} was taken by another process just now")
    return holder


def _link(draft: Path, lease: Path) -> None:
    """Give a draft its name, which only one process can; a copy where links are not to be had."""
    try:
        lease.hardlink_to(draft)
        return
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            with explained(lease, 0):
                raise
    with explained(lease, 0):
        descriptor = os.open(lease, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(draft.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def _lease_path(run: Path, token: int) -> Path:
    return run / "lock" / f"lease-{token:06d}.json"
