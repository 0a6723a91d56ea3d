"""Entries: the numbered experiments of the board, from proposals and from run directories."""

import json
import re
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Json

from steerproof.board.database import now, open_board, select, select_one, transaction, usable
from steerproof.board.proposals import Proposal, read_proposal
from steerproof.codec import from_values
from steerproof.errors import ExperimentError, IntegrityError
from steerproof.spec.problems import shown

_SHIPPED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""Name of a shipped experiment: no path, no option."""
_TEXT = "CAST(text AS TEXT) AS text"
"""A text as text, whatever somebody put there; what is none is an error of the file."""
ITS = "SELECT number FROM entry WHERE number = ?1 OR joined = ?1"
"""The numbers of an entry, as SQL: its own, and those of entries that were joined to it."""


Words = Annotated[str, Field(strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One experiment of the board; its status is derived from its run directory."""

    number: int
    """What people call it: `#342`."""
    title: Words
    """One line."""
    kind: Words
    """What sort of work it is."""
    parent: int | None
    """Number of the experiment it follows from, on this board or not."""
    lineage: Json[tuple[int, ...]]
    """Further ancestors."""
    tags: Json[tuple[str, ...]]
    """Words to filter by."""
    experiment: Words | None
    """Experiment file or shipped name; none until one is attached."""
    directory: Path | None
    """Its run directory; none until it is planned."""
    archived: bool
    """Put away by a person."""
    held: Literal["", "on_hold", "cancelled"]
    """`on_hold` or `cancelled` by a person; empty otherwise."""
    created: Words
    """When it came to the board, ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardEvent:
    """Something that happened to an entry."""

    at: str
    """ISO 8601."""
    what: str
    """`proposed`, `planned`, `started`, ..."""
    who: str = ""
    """User, or empty for the run itself."""
    detail: str = ""
    """One line more."""


def propose(file: Path, experiment_yaml: str | None, board_dir: Path) -> Entry:
    """Put a proposal on the board; proposing the same title again revises its text.

    Args:
        file: Markdown with front matter, or the text of a proposal.
        experiment_yaml: Experiment file, or the name of a shipped one; overrides the front
            matter's `experiment`, which is relative to `file`.
        board_dir: Directory of the board's own data.

    Raises:
        ExperimentError: The file cannot be read, or its number belongs to another experiment.
        SteerproofError: The board's data cannot be kept there.
    """
    proposal = read_proposal(file)
    experiment = _experiment_of(proposal, experiment_yaml, file.parent)
    path = open_board(board_dir)
    with usable(board_dir):
        with transaction(path) as db:
            number = _number_for(db, proposal)
            if db.execute("SELECT 1 FROM entry WHERE number = ?", (number,)).fetchone():
                _revise(db, number, proposal, experiment)
            else:
                _insert(db, number, proposal, experiment)
        return entry(path, number)


def write(path: Path, proposal: Proposal, experiment: str | None, who: str) -> int:
    """Put a proposal that was written in the page on the board; return its number.

    Raises:
        ExperimentError: There is one of that title or number.
    """
    with transaction(path) as db:
        number = proposal.number or _next(db)
        same = db.execute(
            "SELECT number FROM entry WHERE number = ? OR title = ?", (number, proposal.title)
        ).fetchone()
        if same is not None:
            raise ExperimentError(
                f"#{same.number} has that {'number' if same.number == number else 'title'} "
                "already: choose another, or edit that one"
            )
        _insert(db, number, proposal, experiment, who)
    return number


def rewrite(path: Path, number: int, proposal: Proposal, who: str) -> None:
    """Give an entry a new text; the earlier ones are kept."""
    with transaction(path) as db:
        db.execute("UPDATE entry SET title = ? WHERE number = ?", (proposal.title, number))
        _revise(db, number, proposal, None, who)


def entry(path: Path, number: int) -> Entry:
    """The entry of this number, or the one that it was joined to; KeyError if there is none."""
    whose = (
        "SELECT COALESCE((SELECT number FROM entry WHERE number = e.joined), number) FROM entry e"
        " WHERE number = ?"
    )
    row = select_one(path, f"SELECT * FROM entry WHERE number = ({whose})", number)
    if row is None:
        raise KeyError(number)
    return _entry(row)


def entries(path: Path) -> tuple[Entry, ...]:
    """All entries that were not joined to another, newest number first."""
    query = "SELECT * FROM entry WHERE joined IS NULL ORDER BY number DESC"
    return tuple(map(_entry, select(path, query)))


def bare(path: Path) -> frozenset[Path]:
    """Run directories whose entries nobody has proposed, given an experiment or written of."""
    rows = select(
        path,
        "SELECT directory FROM entry e WHERE directory IS NOT NULL AND experiment IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM revision r WHERE r.number = e.number)",
    )
    return frozenset(Path(row.directory) for row in rows)


def text_of(path: Path, number: int) -> str | None:
    """The newest text of a proposal as it was given; none for a bare run directory."""
    return next((text for _, text in texts_of(path, number)), None)


def texts_of(path: Path, number: int) -> tuple[tuple[str, str], ...]:
    """When each text of a proposal was given, and the text; newest first."""
    query = f"SELECT at, {_TEXT} FROM revision WHERE number = ? ORDER BY version DESC"
    return tuple((row.at, row.text) for row in select(path, query, number))


def adopt(path: Path, run_paths: dict[Path, str]) -> None:
    """Give a number to every run directory that has none yet.

    Args:
        path: The board's file.
        run_paths: Title of each run directory.
    """
    known = {row.directory for row in select(path, "SELECT directory FROM entry")}
    fresh = [(d, t) for d, t in sorted(run_paths.items()) if str(d) not in known]
    if not fresh:
        return
    with transaction(path) as db:
        for directory, title in fresh:
            if db.execute("SELECT 1 FROM entry WHERE directory = ?", (str(directory),)).fetchone():
                continue
            number = _next(db)
            db.execute(
                "INSERT INTO entry (number, title, kind, directory, created) VALUES (?,?,?,?,?)",
                (number, title, "experiment", str(directory), now()),
            )
            _record(db, number, "found", "", directory.name)


def join(path: Path, number: int, directory: Path) -> None:
    """Make a run directory that of a proposal that has none.

    The entry that the directory had so far, if any, becomes another number of the proposal: its
    events and comments are shown with the proposal's, and its address leads there.
    """
    place = str(directory)
    with transaction(path) as db:
        mine = db.execute("SELECT directory FROM entry WHERE number = ?", (number,)).fetchone()
        if mine is None or mine.directory is not None:
            return  # somebody was quicker
        db.execute(
            "UPDATE entry SET directory = NULL, joined = ? WHERE directory = ? AND number <> ?",
            (number, place, number),
        )
        db.execute("UPDATE entry SET directory = ? WHERE number = ?", (place, number))
        _record(db, number, "run joined", detail=directory.name)


def update(path: Path, number: int, **columns: str | int | None) -> None:
    """Set `directory`, `experiment`, `archived` or `held` of an entry."""
    allowed = {"directory", "experiment", "archived", "held"}
    if not columns.keys() <= allowed:
        raise ValueError(f"columns {sorted(columns)}; allowed: {sorted(allowed)}")
    with transaction(path) as db:
        for column, value in columns.items():
            db.execute(f"UPDATE entry SET {column} = ? WHERE number = ?", (value, number))


def record(path: Path, number: int, what: str, who: str = "", detail: str = "") -> None:
    """Append an event."""
    with transaction(path) as db:
        _record(db, number, what, who, detail)


def events(path: Path, number: int) -> tuple[BoardEvent, ...]:
    """The board's events of an entry and of those joined to it, oldest first."""
    query = f"SELECT at, what, who, detail FROM event WHERE number IN ({ITS}) ORDER BY id"
    return tuple(BoardEvent(**row._asdict()) for row in select(path, query, number))


def _experiment_of(proposal: Proposal, given: str | None, folder: Path) -> str | None:
    named = given if given is not None else proposal.experiment
    if named is None:
        return None
    file = Path(named) if given is not None else folder / named
    with suppress(OSError, ValueError):  # a name too long for a file, or with a zero in it
        if file.is_file():
            return str(file.resolve())
    if not _SHIPPED.fullmatch(named):
        raise ExperimentError(f"experiment file {shown(str(file))} does not exist")
    return named


def _number_for(db: sqlite3.Connection, proposal: Proposal) -> int:
    same = db.execute(
        "SELECT number, title FROM entry WHERE number = ? OR (? IS NULL AND title = ?)",
        (proposal.number, proposal.number, proposal.title),
    ).fetchone()
    if same is None:
        return proposal.number or _next(db)
    if same.title != proposal.title:
        raise ExperimentError(
            f"#{same.number} is already {same.title!r}; give {proposal.title!r} another "
            "number, or none"
        )
    return same.number


def _next(db: sqlite3.Connection) -> int:
    return db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM entry").fetchone()[0]


def _insert(
    db: sqlite3.Connection, number: int, proposal: Proposal, experiment: str | None, who: str = ""
) -> None:
    at = now()
    db.execute(
        "INSERT INTO entry (number, title, kind, parent, lineage, tags, experiment, created) "
        "VALUES (?,?,?,?,?,?,?,?)",
        (
            number, proposal.title, proposal.kind, proposal.parent,
            json.dumps(proposal.lineage), json.dumps(proposal.tags), experiment, at,
        ),
    )  # fmt: skip
    db.execute("INSERT INTO revision VALUES (?, 1, ?, ?)", (number, proposal.text, at))
    _record(db, number, "proposed", who)


def _revise(
    db: sqlite3.Connection, number: int, proposal: Proposal, experiment: str | None, who: str = ""
) -> None:
    db.execute(
        "UPDATE entry SET kind=?, parent=?, lineage=?, tags=?, experiment=COALESCE(?, experiment) "
        "WHERE number=?",
        (
            proposal.kind, proposal.parent, json.dumps(proposal.lineage),
            json.dumps(proposal.tags), experiment, number,
        ),
    )  # fmt: skip
    newest = db.execute(
        "SELECT version, text FROM revision WHERE number=? ORDER BY version DESC", (number,)
    ).fetchone()
    if newest is None or newest.text != proposal.text:
        version = 1 if newest is None else newest.version + 1
        db.execute("INSERT INTO revision VALUES (?,?,?,?)", (number, version, proposal.text, now()))
        _record(db, number, "revised", who, f"text {version}")


def _record(
    db: sqlite3.Connection, number: int, what: str, who: str = "", detail: str = ""
) -> None:
    db.execute(
        "INSERT INTO event (number, what, who, detail, at) VALUES (?,?,?,?,?)",
        (number, what, who, detail, now()),
    )


def _entry(row: Any) -> Entry:
    """The entry that a row holds.

    Raises:
        sqlite3.DatabaseError: It holds what the board never writes: the file is damaged.
    """
    values = row._asdict()
    del values["joined"]
    try:
        return from_values(Entry, values, f"entry {row.number}")
    except IntegrityError as error:
        raise sqlite3.DatabaseError(str(error)) from error
