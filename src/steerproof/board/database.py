"""The board's own SQLite file: entries, events, comments, users, sessions, jobs.

Write-ahead log, one short transaction per act, a busy wait instead of an error: two people who
comment at once both keep their comment. Events and comments are append-only, and the database
itself refuses to change them. Nothing here is ever part of a run directory.
"""

import hashlib
import os
import sqlite3
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from steerproof.errors import SteerproofError

FILE = "board.sqlite"
BUSY_SECONDS = 15.0

_SCHEMA = """
CREATE TABLE entry (
  number INTEGER PRIMARY KEY CHECK (number > 0),
  title TEXT NOT NULL, kind TEXT NOT NULL, parent INTEGER, lineage TEXT NOT NULL DEFAULT '[]',
  tags TEXT NOT NULL DEFAULT '[]', experiment TEXT, directory TEXT UNIQUE,
  archived INTEGER NOT NULL DEFAULT 0, created TEXT NOT NULL);
CREATE TABLE revision (
  number INTEGER NOT NULL REFERENCES entry, version INTEGER NOT NULL, text TEXT NOT NULL,
  at TEXT NOT NULL, PRIMARY KEY (number, version));
CREATE TABLE event (
  id INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES entry, what TEXT NOT NULL,
  who TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '', at TEXT NOT NULL);
CREATE INDEX event_of ON event (number, id);
CREATE TABLE comment (
  id INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES entry, cell TEXT,
  author TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX comment_of ON comment (number, cell, id);
CREATE TABLE comment_version (
  comment INTEGER NOT NULL REFERENCES comment, version INTEGER NOT NULL, text TEXT NOT NULL,
  at TEXT NOT NULL, PRIMARY KEY (comment, version));
CREATE TABLE user (name TEXT PRIMARY KEY, password TEXT, created TEXT NOT NULL);
CREATE TABLE session (
  digest TEXT PRIMARY KEY, user TEXT NOT NULL REFERENCES user, expires REAL NOT NULL);
CREATE TABLE job (
  id INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES entry, kind TEXT NOT NULL,
  who TEXT NOT NULL, pid INTEGER, born REAL, at TEXT NOT NULL, ended TEXT, code INTEGER);
CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_SECOND = """
ALTER TABLE entry ADD COLUMN joined INTEGER REFERENCES entry;
ALTER TABLE entry ADD COLUMN held TEXT NOT NULL DEFAULT '';
CREATE TABLE approval (
  id INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES entry, who TEXT NOT NULL,
  hours REAL NOT NULL, at TEXT NOT NULL);
CREATE TABLE opinion (
  id INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES entry, who TEXT NOT NULL,
  confidence INTEGER NOT NULL, note TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE token (
  id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, name TEXT NOT NULL, user TEXT NOT NULL,
  created TEXT NOT NULL, used TEXT, revoked TEXT);
"""
_STEPS = (
    (_SCHEMA, ("revision", "event", "comment", "comment_version")),
    (_SECOND, ("approval", "opinion")),
)
"""What each version adds, and which of its tables are append-only."""
VERSION = len(_STEPS)


def open_board(directory: Path) -> Path:
    """Create the board's directory and file if needed, bring an older file up to date; return it.

    Raises:
        SteerproofError: The place cannot be used, is no board's, or belongs to a newer board.
    """
    path = directory / FILE
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Two processes that create the file at once do it one after the other. SQLite's busy wait
        # is not enough: a new file's change to a write-ahead log gives up at once.
        with usable(directory), _alone(directory / f"{FILE}.lock"), connect(path) as db:
            _update(db, path)
        path.chmod(0o600)
    except OSError as error:  # a time-out of the lock is one
        raise _unusable(directory, error.strerror or str(error)) from error
    return path


@contextmanager
def usable(directory: Path) -> Iterator[None]:
    """Around what a command does with the board's file, whose damage shows where it is used.

    Raises:
        SteerproofError: It is damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _unusable(directory / FILE, str(error)) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file's kernel lock, which a dead process cannot keep.

    Raises:
        TimeoutError: Another process or thread held it all the time that one waits.
    """
    import fcntl  # where there is none, what reads run directories says so, and the way out

    end = time.monotonic() + BUSY_SECONDS
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{path.name} is locked by another process") from None
                time.sleep(0.02)
        yield


def _unusable(place: Path, why: str) -> SteerproofError:
    return SteerproofError(
        f"the board's data cannot be kept in {place}: {why}; choose another directory with "
        "--board-dir"
    )


def _update(db: sqlite3.Connection, path: Path) -> None:
    """Take every step that the file has not taken, all or none."""
    db.execute("BEGIN IMMEDIATE")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise SteerproofError(
            f"{path} is of board version {version}; this one reads up to {VERSION}"
        )
    for schema, append_only in _STEPS[version:]:
        for statement in schema.split(";"):
            db.execute(statement)
        for table, verb in product(append_only, ("UPDATE", "DELETE")):
            db.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    db.execute(f"PRAGMA user_version = {VERSION}")
    db.execute("COMMIT")


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection in autocommit mode, closed at the end."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        db.row_factory = _as_named
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        yield db
    finally:
        db.close()


def select(path: Path, query: str, *values: object) -> list[Any]:
    """The rows that a query finds; their columns are attributes."""
    with connect(path) as db:
        return db.execute(query, values).fetchall()


def select_one(path: Path, query: str, *values: object) -> Any | None:
    """The first row that a query finds; None if it finds none."""
    with connect(path) as db:
        return db.execute(query, values).fetchone()


def _as_named(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
    """A row whose columns are attributes."""
    return _row_of(tuple(column[0] for column in cursor.description))._make(values)


@cache
def _row_of(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns, rename=True)  # a count has no name: it has a place


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One writing transaction: everything or nothing, waiting for other writers."""
    with connect(path) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def secret_digest(secret: str) -> str:
    """What is kept in place of a secret that only its owner has."""
    return hashlib.sha256(secret.encode()).hexdigest()


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
