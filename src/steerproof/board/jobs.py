"""Plan, Start and Stop: the command line in the background.

A job is a process of its own session: it goes on when the board stops, and a board that starts
again finds it by process id and birth time. Whether a *run* is going on is never asked here but of
its run directory.
"""

import os
import signal
import sqlite3
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from steerproof import programs
from steerproof.board.database import connect, now, select, select_one, transaction
from steerproof.errors import SteerproofError
from steerproof.run.store.holder import process_ticks

_LOG_TAIL = 16_000
"""Bytes of a log that a page shows."""


class JobError(SteerproofError):
    """A job that cannot be started or stopped; the message is for the person who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardJob:
    """One call of the command line."""

    id: int
    number: int
    """The experiment's."""
    kind: str
    """`plan` or `run`."""
    who: str
    """User who asked."""
    at: str
    """ISO 8601."""
    alive: bool
    """Its process lives."""
    ended: str | None
    """ISO 8601; none while it lives, or if the board was down when it ended."""
    code: int | None
    """Exit code; none where nobody saw it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """What to start."""

    number: int
    """The experiment's."""
    kind: str
    """`plan` or `run`."""
    who: str
    """User who asks."""
    words: tuple[str, ...]
    """Command and arguments, no shell."""


def start(file: Path, logs: Path, order: JobOrder) -> int:
    """Start a job in the background; return its id.

    Args:
        file: The board's file.
        logs: Directory for `ID.out` (standard output) and `ID.log` (standard error).
        order: What to start.

    Raises:
        JobError: A job of this experiment still runs, or the command cannot be started.
    """
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with transaction(file) as db:
        busy = [j for j in _jobs(db, order.number) if j.alive]
        if busy:
            raise JobError(f"a {busy[0].kind} of #{order.number} is still going on; stop it first")
        cursor = db.execute(
            "INSERT INTO job (number, kind, who, at) VALUES (?,?,?,?)",
            (order.number, order.kind, order.who, now()),
        )
        job = int(cursor.lastrowid or 0)
        process = _spawn(logs, job, order.words)
        born = _birth(process.pid)
        db.execute("UPDATE job SET pid = ?, born = ? WHERE id = ?", (process.pid, born, job))
    threading.Thread(target=_await, args=(file, job, process), daemon=True).start()
    return job


def stop(file: Path, number: int) -> BoardJob:
    """Ask the living job of an experiment to stop (SIGTERM): it finishes or drops its unit.

    Raises:
        JobError: There is none that this board started.
    """
    row = select_one(file, "SELECT * FROM job WHERE number = ? ORDER BY id DESC LIMIT 1", number)
    if row is None or not _alive(row):
        raise JobError(f"nothing that this board started is going on for #{number}")
    try:
        os.kill(row.pid, signal.SIGTERM)
    except ProcessLookupError:
        raise JobError(f"the {row.kind} of #{number} has just ended") from None
    return _job(row)


def jobs(file: Path, number: int) -> tuple[BoardJob, ...]:
    """All jobs of an experiment, oldest first."""
    with connect(file) as db:
        return _jobs(db, number)


def all_jobs(file: Path) -> dict[int, tuple[BoardJob, ...]]:
    """Every job by experiment, oldest first."""
    rows = select(file, "SELECT * FROM job ORDER BY id")
    by_experiment: dict[int, tuple[BoardJob, ...]] = {}
    for row in rows:
        by_experiment[row.number] = (*by_experiment.get(row.number, ()), _job(row))
    return by_experiment


def tail(path: Path) -> str:
    """The last bytes of a log as text; empty if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_TAIL))
            return file.read(_LOG_TAIL).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _spawn(logs: Path, job: int, words: tuple[str, ...]) -> subprocess.Popen[bytes]:
    try:
        with (logs / f"{job}.out").open("wb") as out, (logs / f"{job}.log").open("wb") as log:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                env=programs.environment(),
            )
    except OSError as error:
        raise JobError(f"cannot start {words[0]}: {error.strerror}") from error


def _await(file: Path, job: int, process: subprocess.Popen[bytes]) -> None:
    code = process.wait()
    try:
        with transaction(file) as db:
            db.execute("UPDATE job SET ended = ?, code = ? WHERE id = ?", (now(), code, job))
    except sqlite3.Error:
        return  # the board's file is gone: nobody is left to tell


def _jobs(db: sqlite3.Connection, number: int) -> tuple[BoardJob, ...]:
    rows = db.execute("SELECT * FROM job WHERE number = ? ORDER BY id", (number,)).fetchall()
    return tuple(_job(row) for row in rows)


def _job(row: Any) -> BoardJob:
    names = ("id", "number", "kind", "who", "at", "ended", "code")
    return BoardJob(alive=_alive(row), **{name: getattr(row, name) for name in names})


def _alive(row: Any) -> bool:
    if row.ended is not None or row.pid is None or row.born is None:
        return False
    born = _birth(row.pid)
    return born is not None and abs(born - row.born) < 1.0


def _birth(pid: int) -> float | None:
    """When a living process was born, by what no step of the clock moves; none for no process."""
    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return None if dead else float(process_ticks(pid) or process.create_time())
    except psutil.NoSuchProcess:
        return None
