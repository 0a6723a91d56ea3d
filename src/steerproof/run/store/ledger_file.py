"""Opening a ledger: made anew from the manifests where the file is lost, damaged or nonsense."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from steerproof.errors import IntegrityError
from steerproof.run.store.files import explained, temporary_name
from steerproof.run.store.hold import newest_token
from steerproof.run.store.ledger import LEDGER, Ledger, explained_sqlite, trouble, unusable
from steerproof.run.store.manifest import DamagedError, Manifest, open_unit
from steerproof.run.store.store import set_aside, unit_directories
from steerproof.run.store.story import Attempt, Story, read_story

SCHEMA = 1
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
_SHAPE = """
SELECT m.type, m.name, c.name FROM sqlite_master m
LEFT JOIN pragma_table_info(m.name) c ON m.type = 'table'
WHERE m.name IN ('fence', 'units', 'attempts', 'events')
  OR m.type = 'trigger' OR m.type = 'index' AND m.sql LIKE '%UNIQUE%'
"""
"""Columns of the four tables, and what can change or refuse a row that is written."""


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
        MachineError: The file cannot be opened, whatever is in it.
    """
    path = run / LEDGER
    for part in _odd(run):
        set_aside(run, part)
    if stolen and path.exists():
        _copy(run, path)
    lost = not path.exists() or path.stat().st_size == 0
    newest = max(token, newest_token(run))
    try:
        connection = _connect(path, newest)
    except (sqlite3.DatabaseError, IntegrityError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
            raise unusable(path, error) from error
        _set_aside(run)
        lost = True
        connection = _connect(path, newest)
    ledger = Ledger(connection, path, token)
    with ledger.transaction():
        connection.execute("INSERT INTO fence VALUES (?)", (token,))
    if lost and (manifests := list(_manifests(run))):
        ledger.add_event("ledger-rebuilt", units=ledger.adopt(manifests))
    return ledger


def read_ledger(run: Path) -> Story | None:
    """What a ledger tells, while another process may be writing; None if there is none.

    Where the file cannot be read, or does not make sense, the story is told from the units, as the
    next run will tell it, and its `problem` says why.
    """
    path = run / LEDGER
    try:
        if not os.path.lexists(path):
            return None
        for part in _odd(run):  # SQLite would wait for a pipe to be written to
            raise IntegrityError(f"{part.name} is no file")
        connection = _open_readable(path)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                return _unwritten(connection)
            return read_story(connection)
        finally:
            connection.close()
    except (sqlite3.DatabaseError, IntegrityError, OSError, UnicodeDecodeError) as error:
        problem = (
            f"{path}: {trouble(path, error)}. The next run sets it aside and rebuilds it from the"
            " units"
        )
        return _told_by_units(run, problem)


def _unwritten(connection: sqlite3.Connection) -> None:
    """Nothing is told by a file that its process is creating just now, with all tables at once.

    Raises:
        IntegrityError: It has tables without the number that is written with them.
    """
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise IntegrityError("it has tables, and does not say of which version")


def _told_by_units(run: Path, problem: str) -> Story:
    manifests = list(_manifests(run))
    newest = {manifest.unit: manifest for manifest in manifests}
    return Story(
        keys={unit: manifest.key for unit, manifest in newest.items()},
        states=dict.fromkeys(newest, "done"),
        attempts=tuple(
            _attempt(number, manifest) for number, manifest in enumerate(manifests, start=1)
        ),
        problem=problem,
    )


def _attempt(number: int, manifest: Manifest) -> Attempt:
    made = manifest.made
    return Attempt(
        attempt=number,
        unit=manifest.unit,
        key=manifest.key,
        state="done",
        started=made.ended - made.seconds,
        ended=made.ended,
        seconds=made.seconds,
        host=made.host,
        pid=0,
        peak_memory=made.peak_memory,
        error=None,
        log=None,
    )


def _manifests(run: Path) -> Iterator[Manifest]:
    """Of every sound unit, oldest first."""
    manifests = []
    for directory in unit_directories(run):
        try:
            manifests.append(open_unit(directory).manifest)
        except DamagedError:
            continue  # whoever needs it finds it damaged, names it and sets it aside
    yield from sorted(manifests, key=lambda manifest: manifest.made.ended)


def _parts(run: Path) -> list[Path]:
    """The ledger and what SQLite keeps beside it, as far as something of that name is there."""
    parts = (run / f"{LEDGER}{end}" for end in ("", "-wal", "-shm", "-journal"))
    return [part for part in parts if os.path.lexists(part)]


def _odd(run: Path) -> list[Path]:
    return [part for part in _parts(run) if not part.is_file()]


def _set_aside(run: Path) -> None:
    for part in _parts(run):
        set_aside(run, part)


def _copy(run: Path, path: Path) -> None:
    """Put a copy in its place: a writer stopped in a transaction cannot keep us from reading."""
    copy = run / temporary_name()
    try:
        with explained(copy, path.stat().st_size):
            os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(_open(path)) as source, closing(_open(copy)) as target:
            source.backup(target)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        copy.unlink()  # damaged as well: rebuilt from the manifests
        _set_aside(run)
        return
    _set_aside(run)
    copy.rename(path)


def _open_readable(path: Path) -> sqlite3.Connection:
    """Open for reading; on a read-only disk without the shared memory that SQLite would create."""
    uri = path.absolute().as_uri()
    try:
        return _reader(f"{uri}?mode=rw")
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    return _reader(f"{uri}?mode=ro&immutable=1")


def _reader(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only = ON")
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            connection.execute("SELECT count(*) FROM units").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # a message that quotes no text
        connection.close()
        raise
    return connection


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=30, isolation_level=None)


def _connect(path: Path, newest: int) -> sqlite3.Connection:
    """Open or create the file.

    Args:
        path: Of the file.
        newest: The largest token that was ever given. What stands in the fence and is larger, or
            no number, was given to nobody, and would keep everybody out for ever.

    Raises:
        sqlite3.DatabaseError: It is not a sound database.
        IntegrityError: What it tells does not make sense.
    """
    with explained(path, 0):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    with explained_sqlite(path):
        connection = _open(path)
        try:
            _prepare(connection)
            read_story(connection)  # quick_check does not look at texts
            connection.execute("DELETE FROM fence WHERE token > ?", (newest,))
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
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(_TABLES)
        if set(fresh.execute(_SHAPE)) != set(connection.execute(_SHAPE)):
            raise sqlite3.DatabaseError("tables, columns, triggers or indices that are not ours")


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite refused because of what is in the file, not because it could not reach it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF == sqlite3.SQLITE_ERROR or code == sqlite3.SQLITE_IOERR_SHORT_READ
