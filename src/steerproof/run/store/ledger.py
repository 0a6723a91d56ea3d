"""The ledger: every attempt at a unit, every event of a run, in one SQLite file with one writer.

It tells the story; the manifests are the truth. When it is lost or corrupt it is set aside and
rebuilt from the manifests, without the attempts that failed.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from steerproof.errors import IntegrityError, LockedError
from steerproof.run.store.faults import fault_point
from steerproof.run.store.files import disk_full, explained, temporary_name
from steerproof.run.store.manifest import DamagedError, Manifest, open_unit
from steerproof.run.store.store import set_aside, unit_directories

SCHEMA = 1
LEDGER = "ledger.sqlite"
STATES = ("waiting", "running", "done", "failed", "interrupted")
_TABLES = """
CREATE TABLE fence (token INTEGER NOT NULL);
CREATE TABLE units (
  unit TEXT PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE attempts (
  attempt INTEGER PRIMARY KEY, unit TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL,
  started REAL NOT NULL, ended REAL, seconds REAL, host TEXT NOT NULL, pid INTEGER NOT NULL,
  peak_memory INTEGER, error TEXT, log TEXT
);
CREATE INDEX attempts_of_unit ON attempts (unit);
CREATE TABLE events (
  event INTEGER PRIMARY KEY, time REAL NOT NULL, what TEXT NOT NULL, unit TEXT, detail TEXT NOT NULL
);
"""
_NO_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
_KNOWN = "SELECT key FROM attempts WHERE state = 'done'"
_ADOPT = (
    "INSERT INTO attempts (unit, key, state, started, ended, seconds, host, pid, peak_memory)"
    " VALUES (?, ?, 'done', ?, ?, ?, ?, 0, ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one unit.

    Attributes:
        attempt: Its number in the ledger.
        unit: The unit's id.
        key: The unit's key at the time.
        state: One of `STATES`.
        started: Unix time.
        ended: Unix time, None while it runs.
        seconds: Time the work took, None if it did not end well.
        host: Machine.
        pid: Process that did the work, or 0 if it is not known.
        peak_memory: Largest resident memory of that process so far, bytes.
        error: What went wrong.
        log: Path of the log below the run directory.
    """

    attempt: int
    unit: str
    key: str
    state: str
    started: float
    ended: float | None
    seconds: float | None
    host: str
    pid: int
    peak_memory: int | None
    error: str | None
    log: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: one line of the timeline.

    Attributes:
        time: Unix time.
        what: ``started``, ``unit-done``, ``unit-failed``, ``stopped``, ``verdict``, ...
        unit: The unit's id, where it concerns one.
        detail: Whatever else is known; plain JSON.
    """

    time: float
    what: str
    unit: str | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over every attempt of every call, never over what one process remembers.

    Attributes:
        attempts: Number of attempts.
        by_state: Number of attempts in each state.
        seconds: Time spent in units that were finished.
        peak_memory: Largest resident memory of any worker, bytes; None if never measured.
    """

    attempts: int
    by_state: Mapping[str, int]
    seconds: float
    peak_memory: int | None


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
        """
        if self._connection.in_transaction:
            yield
            return
        with _explained(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_fence()
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _check_fence(self) -> None:
        newest = self._connection.execute("SELECT max(token) FROM fence").fetchone()[0]
        if newest is not None and newest > self._token:
            raise LockedError(
                f"another process took {self._path.parent} over (token {newest}, ours is "
                f"{self._token}); nothing more is written by this one"
            )

    # Units and attempts

    def register(self, keys: Mapping[str, str], done: Iterable[str]) -> None:
        """Set the units of the experiment: those in ``done`` are finished, the others wait.

        Args:
            keys: Key of each unit by id.
            done: Ids of the units that are finished and verified.
        """
        finished = set(done)
        rows = (
            (unit, key, unit.partition("/")[0], "done" if unit in finished else "waiting")
            for unit, key in keys.items()
        )
        with self.transaction():
            self._connection.execute("DELETE FROM units")
            self._connection.executemany("INSERT INTO units VALUES (?, ?, ?, ?)", rows)

    def start(self, units: Mapping[str, str], host: str) -> dict[str, int]:
        """Record that work on these units begins.

        Args:
            units: Key of each unit by id.
            host: Machine; corrected by the manifest when another one did the work.

        Returns:
            The attempt's number by unit id.
        """
        numbers: dict[str, int] = {}
        with self.transaction():
            for unit, key in units.items():
                cursor = self._connection.execute(
                    "INSERT INTO attempts (unit, key, state, started, host, pid)"
                    " VALUES (?, ?, 'running', ?, ?, 0)",
                    (unit, key, time.time(), host),
                )
                numbers[unit] = int(cursor.lastrowid or 0)
                self._set_state(unit, "running")
        return numbers

    def finish(self, finished: Iterable[tuple[int, Manifest, int]]) -> None:
        """Record, in one transaction, that attempts ended in committed units.

        Args:
            finished: The attempt's number, the unit's manifest and the worker's process, of each.
        """
        rows = list(finished)
        for _, manifest, _ in rows:
            fault_point("ledger.before", manifest.unit.partition("/")[0])
        with self.transaction():
            for attempt, manifest, pid in rows:
                made = manifest.made
                self._connection.execute(
                    "UPDATE attempts SET state = 'done', ended = ?, seconds = ?, host = ?, pid = ?,"
                    " peak_memory = ? WHERE attempt = ?",
                    (time.time(), made.seconds, made.host, pid, made.peak_memory, attempt),
                )
                self._set_state(manifest.unit, "done")
        for _, manifest, _ in rows:
            fault_point("ledger.after", manifest.unit.partition("/")[0])

    def adopt(self, manifests: Iterable[Manifest]) -> int:
        """Enter finished units that the ledger does not know, each as one finished attempt.

        They are units whose commit it missed: the process died just then, or the ledger was lost.

        Returns:
            How many were entered.
        """
        known = {row[0] for row in self._connection.execute(_KNOWN)}
        rows = []
        for manifest in manifests:
            made = manifest.made
            if manifest.key in known:
                continue
            ended = datetime.fromisoformat(made.created).timestamp()
            row = (manifest.unit, manifest.key, ended - made.seconds, ended, made.seconds)
            rows.append((*row, made.host, made.peak_memory))
        with self.transaction():
            self._connection.executemany(_ADOPT, rows)
        return len(rows)

    def fail(self, attempt: int, state: str, error: str, log: str | None) -> None:
        """Record that an attempt did not end in a unit; see `set_state` for the unit.

        Args:
            attempt: Its number.
            state: ``failed`` or ``interrupted``.
            error: What went wrong.
            log: Path of the log below the run directory.
        """
        with self.transaction():
            self._connection.execute(
                "UPDATE attempts SET state = ?, ended = ?, error = ?, log = ? WHERE attempt = ?",
                (state, time.time(), error, log, attempt),
            )

    def set_state(self, unit: str, state: str) -> None:
        """Set a unit's state."""
        with self.transaction():
            self._set_state(unit, state)

    def _set_state(self, unit: str, state: str) -> None:
        self._connection.execute("UPDATE units SET state = ? WHERE unit = ?", (state, unit))

    def interrupt_running(self) -> int:
        """Call what a dead process left ``running`` by its name; returns how many attempts."""
        with self.transaction():
            cursor = self._connection.execute(
                "UPDATE attempts SET state = 'interrupted', error = 'its process died'"
                " WHERE state = 'running'"
            )
            self._connection.execute(
                "UPDATE units SET state = 'interrupted' WHERE state = 'running'"
            )
        return cursor.rowcount

    def add_event(self, what: str, unit: str | None = None, **detail: Any) -> Event:
        """Append to the timeline."""
        event = Event(time=time.time(), what=what, unit=unit, detail=detail)
        with self.transaction():
            self._connection.execute(
                "INSERT INTO events (time, what, unit, detail) VALUES (?, ?, ?, ?)",
                (event.time, what, unit, json.dumps(detail, ensure_ascii=False)),
            )
        return event

    # Reading

    def states(self) -> dict[str, str]:
        """State of each unit of the experiment by id."""
        return dict(self._connection.execute("SELECT unit, state FROM units ORDER BY unit"))

    def keys(self) -> dict[str, str]:
        """Key of each unit of the experiment by id, as last run."""
        return dict(self._connection.execute("SELECT unit, key FROM units ORDER BY unit"))

    def attempts(self, unit: str | None = None) -> list[Attempt]:
        """All attempts, oldest first, of one unit or of all."""
        query = "SELECT * FROM attempts WHERE ? IS NULL OR unit = ? ORDER BY attempt"
        cursor = self._connection.execute(query, (unit, unit))
        names = [column[0] for column in cursor.description]
        return [Attempt(**dict(zip(names, row, strict=True))) for row in cursor]

    def events(self, last: int | None = None) -> list[Event]:
        """The timeline, oldest first, or only its last events."""
        query = "SELECT time, what, unit, detail FROM events ORDER BY event DESC LIMIT ?"
        rows = self._connection.execute(query, (-1 if last is None else last,)).fetchall()
        return [
            Event(time=when, what=what, unit=unit, detail=json.loads(detail))
            for when, what, unit, detail in reversed(rows)
        ]

    def totals(self) -> Totals:
        """Sums over all attempts of all calls."""
        by_state: dict[str, int] = dict(
            self._connection.execute("SELECT state, count(*) FROM attempts GROUP BY state")
        )
        seconds, peak = self._connection.execute(
            "SELECT total(seconds), max(peak_memory) FROM attempts"
        ).fetchone()
        return Totals(
            attempts=sum(by_state.values()), by_state=by_state, seconds=seconds, peak_memory=peak
        )

    def close(self) -> None:
        """Close the file; with one writer gone, SQLite folds the write-ahead log into it."""
        self._connection.close()


def open_ledger(run: Path, token: int, stolen: bool = False) -> Ledger:
    """Open a run directory's ledger for writing, made anew from the manifests if it must be.

    Only the holder of the run directory's lock may do so.

    Args:
        run: The run directory.
        token: The holder's fencing token.
        stolen: Whether the lock was taken from a process that may wake up: it is left with the old
            file, in whose middle it may have been stopped, and we go on with a copy.

    Raises:
        LockedError: A newer token has written to it.
        DiskFullError: No space.
    """
    path = run / LEDGER
    if path.exists() and not path.is_file():
        set_aside(run, path)
    if stolen and path.exists():
        _copy(run, path)
    lost = not path.exists() or path.stat().st_size == 0
    try:
        ledger = Ledger(_connect(path), path, token)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
            raise
        _set_aside(run)
        lost = True
        ledger = Ledger(_connect(path), path, token)
    with ledger.transaction():
        ledger._connection.execute("INSERT INTO fence VALUES (?)", (token,))
    if lost:
        _rebuild(ledger, run)
    return ledger


def _set_aside(run: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal"):
        part = run / f"{LEDGER}{end}"
        if part.exists():
            set_aside(run, part)


def _copy(run: Path, path: Path) -> None:
    """Put a copy in its place: a writer stopped in a transaction cannot keep us from reading."""
    copy = run / temporary_name()
    try:
        with explained(copy, path.stat().st_size):
            os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(_open(path)) as source, closing(_open(copy)) as target:
            source.backup(target)
    except sqlite3.DatabaseError:
        copy.unlink()  # damaged as well: rebuilt from the manifests
        _set_aside(run)
        return
    _set_aside(run)
    copy.rename(path)


def read_ledger(run: Path) -> Ledger | None:
    """Open a ledger for reading only, while another process may be writing; None if none is there.

    Raises:
        IntegrityError: It is damaged; the next run rebuilds it.
    """
    path = run / LEDGER
    if not path.exists():
        return None
    try:
        connection = _open_readable(path)
    except sqlite3.DatabaseError as error:
        raise IntegrityError(
            f"{path}: {error}. The next run sets it aside and rebuilds it from the manifests"
        ) from error
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.close()  # its process is creating it just now
        return None
    return Ledger(connection, path, token=0)


def _open_readable(path: Path) -> sqlite3.Connection:
    """Open for reading; on a read-only disk without the shared memory that SQLite would create."""
    uri = path.absolute().as_uri()
    try:
        return _checked_reader(f"{uri}?mode=rw")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    return _checked_reader(f"{uri}?mode=ro&immutable=1")


def _checked_reader(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = ON")
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            connection.execute("SELECT count(*) FROM units").fetchone()
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=30, isolation_level=None)


def _connect(path: Path) -> sqlite3.Connection:
    """Open or create the file; raise `sqlite3.DatabaseError` if it is not a sound ledger."""
    with explained(path, 0):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with _explained(path):
        connection = _open(path)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # Some filesystems have no shared memory for the write-ahead log: SQLite then stays as it was.
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = FULL")
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise sqlite3.DatabaseError(problem)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    elif version != SCHEMA:
        raise sqlite3.DatabaseError(f"schema {version}, this version writes {SCHEMA}")


def _rebuild(ledger: Ledger, run: Path) -> None:
    """Enter every sound unit of the run directory as a finished attempt."""
    manifests = []
    for directory in unit_directories(run):
        try:
            manifests.append(open_unit(directory).manifest)
        except DamagedError:
            continue  # whoever needs it finds it damaged, names it and sets it aside
    if manifests:
        ledger.add_event("ledger-rebuilt", units=ledger.adopt(manifests))


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite refused because of what is in the file, not because it could not reach it."""
    code = error.sqlite_errorcode
    return code & 0xFF == sqlite3.SQLITE_ERROR or code == sqlite3.SQLITE_IOERR_SHORT_READ


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's full disk and second writer into our errors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in _NO_SPACE:
            raise disk_full(path, path.stat().st_size) from error
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise LockedError(f"another process is writing to {path}") from error
        raise
