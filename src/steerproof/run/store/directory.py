"""A run directory that this process holds: locked, swept, its ledger open."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steerproof.run.driver.signals import stop_on_signals
from steerproof.run.store.hold import RunLock, locked
from steerproof.run.store.holder import host_name
from steerproof.run.store.ledger import Ledger
from steerproof.run.store.ledger_file import open_ledger
from steerproof.run.store.store import sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """What a driver works in."""

    path: Path
    """The directory."""
    lock: RunLock
    """Held for as long as the directory is open."""
    ledger: Ledger
    """Open for writing."""
    stopping: threading.Event
    """Set by Ctrl-C, SIGTERM or SIGHUP: finish what is in hand, or drop it."""


@contextmanager
def open_run(path: Path, command: str, steal: bool = False) -> Iterator[RunDirectory]:
    """Hold a run directory for as long as the block lasts; create it if it does not exist.

    What dead processes left half-written is removed, and what they left `running` is called
    `interrupted`.

    Ctrl-C and SIGTERM are taken note of while it is held, and a second one interrupts at once.

    Args:
        path: The run directory.
        command: The command to type to go on, told to whoever finds the directory in use.
        steal: Take over from a process whose heartbeat has expired.

    Raises:
        LockedError: Another process holds it.
        MachineError: It cannot be written.
        DiskFullError: No space.
    """
    with stop_on_signals() as stopping, locked(path, command, steal) as lock:
        removed = sweep(path)
        ledger = open_ledger(path, lock.token, lock.stolen)
        try:
            interrupted = ledger.interrupt_running()
            ledger.add_event(
                "run-started",
                command=command,
                host=host_name().partition(" ")[0],
                pid=os.getpid(),
                token=lock.token,
                swept=removed,
                interrupted=interrupted,
            )
            yield RunDirectory(path=path, lock=lock, ledger=ledger, stopping=stopping)
        finally:
            ledger.close()
