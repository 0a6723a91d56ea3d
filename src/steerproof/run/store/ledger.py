"""The ledger: every attempt at a unit, every event of a run, in one SQLite file with one writer.

It tells the story; the manifests are the truth. When it is lost or corrupt it is set aside and
rebuilt from the manifests, without the attempts that failed (`ledger_file`).
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steerproof.errors import LockedError, MachineError
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.faults import fault_point
from steerproof.run.store.files import disk_full
from steerproof.run.store.hold import refuse_if_taken_over
from steerproof.run.store.manifest import Manifest
from steerproof.run.store.story import Event, Story, read_story

LEDGER = "ledger.sqlite"
_LONGEST_PATH = 511
"""Bytes of an absolute path that SQLite opens, by a constant of its source."""
_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_KNOWN = "SELECT key FROM attempts WHERE state = 'done'"
_START = (
    "INSERT INTO attempts (unit, key, state, started, host, pid) VALUES (?, ?, 'running', ?, ?, 0)"
)
_FINISH = (
    "UPDATE attempts SET state = 'done', ended = ?, seconds = ?, host = ?, pid = ?, peak_memory = ?"
    " WHERE attempt = ?"
)
_INTERRUPT = (
    "UPDATE attempts SET state = 'interrupted', error = 'its process died' WHERE state = 'running'"
)
_INTERRUPT_UNITS = "UPDATE units SET state = 'interrupted' WHERE state = 'running'"
_ADOPT = (
    "INSERT INTO attempts (unit, key, state, started, ended, seconds, host, pid, peak_memory)"
    " VALUES (?, ?, 'done', ?, ?, ?, ?, 0, ?)"
)


class Ledger:
    """An open ledger. All methods that write check the fencing token in the same transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path, token: int) -> None:
        self._connection = connection
        self._path = path
        self._token = token

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all or nothing, on the disk when it ends; nests into one transaction.

        Raises:
            LockedError: Another process took the run directory over.
            DiskFullError: No space for the change.
            MachineError: The file can no longer be read or written.
        """
        if self._connection.in_transaction:
            yield
            return
        with _usable(self._path), explained_sqlite(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                newest = self._connection.execute("SELECT max(token) FROM fence").fetchone()[0]
                refuse_if_taken_over(self._path.parent, newest or 0, self._token)
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def register(self, keys: Mapping[UnitId, str], done: Iterable[UnitId]) -> None:
        """Set the units of the experiment: those in `done` are finished, the others wait.

        Args:
            keys: Key of each unit.
            done: The units that are finished and verified.
        """
        finished = set(done)
        rows = (
            (str(unit), key, unit.kind, "done" if unit in finished else "waiting")
            for unit, key in keys.items()
        )
        with self.transaction():
            self._connection.execute("DELETE FROM units")
            self._connection.executemany("INSERT INTO units VALUES (?, ?, ?, ?)", rows)

    def start(self, units: Mapping[UnitId, str], host: str) -> dict[UnitId, int]:
        """Record that work on these units begins.

        Args:
            units: Key of each unit.
            host: Machine; corrected by the manifest when another one did the work.

        Returns:
            The attempt's number by unit.
        """
        numbers: dict[UnitId, int] = {}
        with self.transaction():
            for unit, key in units.items():
                row = (str(unit), key, time.time(), host)
                cursor = self._connection.execute(_START, row)
                numbers[unit] = int(cursor.lastrowid or 0)
                self.set_state(unit, "running")
        return numbers

    def finish(self, finished: Iterable[tuple[int, Manifest, int]]) -> None:
        """Record, in one transaction, that attempts ended in committed units.

        Args:
            finished: The attempt's number, the unit's manifest and the worker's process, of each.
        """
        rows = list(finished)
        for _, manifest, _ in rows:
            fault_point("ledger.before", manifest.unit.kind)
        with self.transaction():
            for attempt, manifest, pid in rows:
                made = manifest.made
                row = (time.time(), made.seconds, made.host, pid, made.peak_memory, attempt)
                self._connection.execute(_FINISH, row)
                self.set_state(manifest.unit, "done")
        for _, manifest, _ in rows:
            fault_point("ledger.after", manifest.unit.kind)

    def adopt(self, manifests: Iterable[Manifest]) -> int:
        """Enter finished units that the ledger does not know, each as one finished attempt.

        They are units whose commit it missed: the process died just then, or the ledger was lost.

        Returns:
            How many were entered.
        """
        known = {row[0] for row in self._connection.execute(_KNOWN)}
        rows = [_adopted(manifest) for manifest in manifests if manifest.key not in known]
        with self.transaction():
            self._connection.executemany(_ADOPT, rows)
        return len(rows)

    def fail(self, attempt: int, state: str, error: str, log: str | None) -> None:
        """Record that an attempt did not end in a unit; see `set_state` for the unit.

        Args:
            attempt: Its number.
            state: `failed` or `interrupted`.
            error: What went wrong.
            log: Path of the log below the run directory.
        """
        with self.transaction():
            self._connection.execute(
                "UPDATE attempts SET state = ?, ended = ?, error = ?, log = ? WHERE attempt = ?",
                (state, time.time(), _text(error), log, attempt),
            )

    def set_state(self, unit: UnitId, state: str) -> None:
        """Set a unit's state."""
        row = (state, str(unit))
        with self.transaction():
            self._connection.execute("UPDATE units SET state = ? WHERE unit = ?", row)

    def interrupt_running(self) -> int:
        """Call what a dead process left `running` by its name; returns how many attempts."""
        with self.transaction():
            cursor = self._connection.execute(_INTERRUPT)
            self._connection.execute(_INTERRUPT_UNITS)
        return cursor.rowcount

    def add_event(self, what: str, unit: UnitId | None = None, **detail: Any) -> Event:
        """Append to the timeline."""
        event = Event(time=time.time(), what=what, unit=unit, detail=detail)
        name = None if unit is None else str(unit)
        with self.transaction():
            self._connection.execute(
                "INSERT INTO events (time, what, unit, detail) VALUES (?, ?, ?, ?)",
                (event.time, what, name, json.dumps(detail)),
            )
        return event

    def story(self) -> Story:
        """Everything that it tells.

        Raises:
            IntegrityError: It does not make sense.
        """
        return read_story(self._connection)

    def close(self) -> None:
        """Close the file; with one writer gone, SQLite folds the write-ahead log into it."""
        self._connection.close()


def _adopted(manifest: Manifest) -> tuple[object, ...]:
    """The attempt that a finished unit tells of, as `_ADOPT` takes it."""
    made = manifest.made
    times = (made.ended - made.seconds, made.ended, made.seconds)
    return (str(manifest.unit), manifest.key, *times, made.host, made.peak_memory)


def _text(value: str) -> str:
    """Text that SQLite takes: of a file name that is not UTF-8, what can be shown."""
    return value.encode(errors="replace").decode()


@contextmanager
def explained_sqlite(path: Path) -> Iterator[None]:
    """Turn SQLite's full disk and second writer into our errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", None)  # a text that is none has no code
        if code in _NO_SPACE:
            raise disk_full(path, path.stat().st_size) from error
        if code == sqlite3.SQLITE_BUSY:
            raise LockedError(f"another process is writing to {path}") from error
        raise


def trouble(path: Path, error: Exception) -> str:
    """What is wrong with a ledger in words; SQLite does not say that it cannot take the path."""
    length = len(os.fsencode(path.absolute()))
    if isinstance(error, sqlite3.OperationalError) and length > _LONGEST_PATH:
        return (
            f"{error}: SQLite takes paths of up to {_LONGEST_PATH} bytes, and this one has"
            f" {length}; move the run directory to where its path is shorter"
        )
    return str(error)


def unusable(path: Path, error: Exception) -> MachineError:
    """The error for a ledger that can be neither used nor replaced."""
    return MachineError(
        f"cannot use {path}: {trouble(path, error)}. Finished units are kept; when the disk is well"
        " again, the same command goes on, and makes the ledger anew if it must"
    )


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise unusable(path, error) from error
