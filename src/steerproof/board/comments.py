"""Comments on an experiment or on one of its cells: append-only, with every version kept."""

from dataclasses import dataclass
from pathlib import Path

from steerproof.board.database import now, select, transaction
from steerproof.board.entries import ITS
from steerproof.errors import SteerproofError

LONGEST = 20_000
"""Longest comment, in characters."""


class CommentError(SteerproofError):
    """A comment that cannot be accepted; the message is for its author."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One text of a comment."""

    version: int
    """1 for the first."""
    text: str
    """Markdown."""
    at: str
    """ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """A comment with all its versions, oldest first."""

    id: int
    """Its number on the board."""
    author: str
    """Name of the user."""
    cell: str | None
    """Cell it is about; none for the experiment."""
    versions: tuple[Version, ...]
    """Never empty."""

    @property
    def text(self) -> str:
        """The newest text."""
        return self.versions[-1].text

    @property
    def at(self) -> str:
        """When it was first written."""
        return self.versions[0].at


def add(path: Path, number: int, author: str, text: str, cell: str | None = None) -> int:
    """Append a comment; return its id.

    Raises:
        CommentError: The text is empty or too long.
    """
    body = _checked(text)
    at = now()
    with transaction(path) as db:
        cursor = db.execute(
            "INSERT INTO comment (number, cell, author, at) VALUES (?,?,?,?)",
            (number, cell, author, at),
        )
        db.execute("INSERT INTO comment_version VALUES (?,1,?,?)", (cursor.lastrowid, body, at))
    return cursor.lastrowid or 0


def edit(path: Path, comment: int, author: str, text: str, seen: int) -> int:
    """Append a new version to one's own comment; return its number.

    Args:
        path: The board's file.
        comment: Id of the comment.
        author: Who edits; only the author may.
        text: The new text.
        seen: Version that the author started from; an edit of an older one is refused, so that
            two windows cannot overwrite each other.

    Raises:
        CommentError: Not the author's, empty, too long, or changed meanwhile.
    """
    body = _checked(text)
    with transaction(path) as db:
        row = db.execute(
            "SELECT author, MAX(version) AS newest FROM comment JOIN comment_version "
            "ON comment = id WHERE id = ?",
            (comment,),
        ).fetchone()
        if row.author is None:
            raise CommentError("there is no such comment")
        if row.author != author:
            raise CommentError("only its author can edit a comment")
        if row.newest != seen:
            raise CommentError("the comment was edited meanwhile; load the page again")
        db.execute("INSERT INTO comment_version VALUES (?,?,?,?)", (comment, seen + 1, body, now()))
    return seen + 1


def comments(path: Path, number: int, cell: str | None = None) -> tuple[Comment, ...]:
    """Comments on an experiment (`cell` none) or on one of its cells, oldest first."""
    rows = select(
        path,
        "SELECT id, author, cell, version, text, v.at AS at FROM comment c "
        "JOIN comment_version v ON v.comment = c.id "
        f"WHERE number IN ({ITS}) AND cell IS ? ORDER BY id, version",
        number,
        cell,
    )
    by_place: dict[int, list] = {}
    for row in rows:
        by_place.setdefault(row.id, []).append(row)
    return tuple(
        Comment(
            id=key,
            author=group[0].author,
            cell=group[0].cell,
            versions=tuple(Version(version=r.version, text=r.text, at=r.at) for r in group),
        )
        for key, group in by_place.items()
    )


def counts(path: Path, number: int) -> dict[str | None, int]:
    """Number of comments of each cell, and of the experiment itself (key none)."""
    query = f"SELECT cell, COUNT(*) FROM comment WHERE number IN ({ITS}) GROUP BY cell"
    return dict(select(path, query, number))


def _checked(text: str) -> str:
    body = text.replace("\r\n", "\n").strip()
    if not body:
        raise CommentError("a comment needs some text")
    if len(body) > LONGEST:
        raise CommentError(f"a comment has at most {LONGEST} characters; this has {len(body)}")
    return body
