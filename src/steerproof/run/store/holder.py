"""Who holds a run directory: a process, told from its namesakes by what no clock step moves."""

import os
import socket
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from steerproof.codec import read_record
from steerproof.errors import IntegrityError


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds, or held, a run directory."""

    token: int
    """Number of the lease: each taking of the lock has a larger one."""
    host: str
    """Machine and, on Linux, the name of its process numbering (containers have their own)."""
    pid: int
    process_started: float
    """Unix time at which that process began, to tell it from a later namesake."""
    command: str
    """Its command line."""
    taken: float
    """Unix time at which the lock was taken."""
    released: bool = False
    """Whether it was given back."""
    boot: str | None = None
    """Which start of the machine it was, where the system says so."""
    ticks: int | None = None
    """Clock ticks from that start to the process's: no step of the clock moves it."""

    def is_dead(self) -> bool:
        """Whether the process is known to be gone; False if it runs or lives on another machine."""
        if self.host != host_name():
            return False
        if self.boot is not None and _boot() not in (None, self.boot):
            return True
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            if self.ticks is not None:
                return process_ticks(self.pid) not in (None, self.ticks)
            return abs(process.create_time() - self.process_started) > 1.0
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            return True
        except psutil.AccessDenied:
            return False


def _boot() -> str | None:
    """The name of this start of the machine; None where the system gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return None


def process_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None where nothing says so."""
    try:
        # The second field, the program's name in brackets, may hold anything.
        _, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        return int(after.split()[19])
    except (OSError, ValueError, IndexError):
        return None


def this_process(token: int, command: str) -> Holder:
    """This process, as the holder of a lease.

    Args:
        token: Number of the lease.
        command: What others are told that it does.
    """
    return Holder(
        token=token,
        host=host_name(),
        pid=os.getpid(),
        process_started=psutil.Process().create_time(),
        command=command,
        taken=time.time(),
        boot=_boot(),
        ticks=process_ticks(os.getpid()),
    )


def read_holder(lease: Path, token: int) -> Holder:
    """Who a lease names; nobody, where it was altered: it is linked into place whole."""
    try:
        if not lease.is_file():
            raise IntegrityError(f"{lease} is no file")
        return read_record(Holder, lease.read_bytes(), str(lease))
    except (IntegrityError, OSError):
        return Holder(
            token=token,
            host="unknown",
            pid=0,
            process_started=0.0,
            command="unknown",
            taken=0.0,
            released=True,
        )


@cache
def host_name() -> str:
    """This machine, and the numbering of processes that its pids belong to."""
    try:
        numbering = Path("/proc/self/ns/pid").readlink().name.removeprefix("pid:")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()} {numbering}"
