"""What people allow and what they think: caps on device time, and confidence in a verdict.

Both are append-only. A cap is passed to the run, which stops at it; a person's confidence stands
beside the verdict and changes nothing of it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from steerproof.board.database import now, select, transaction
from steerproof.board.entries import ITS
from steerproof.errors import SteerproofError

MOST_HOURS = 100_000.0
LONGEST_NOTE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A cap on the device time of all tries of an experiment."""

    who: str
    hours: float
    at: str
    """ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """How sure somebody is that the verdict is right."""

    who: str
    confidence: int
    """Percent."""
    note: str
    at: str
    """ISO 8601."""
    earlier: int
    """Opinions of the same person before this one."""


def approve(path: Path, number: int, who: str, hours: str) -> Approval:
    """Allow so many device hours in all.

    Raises:
        SteerproofError: The text is no number of hours.
    """
    try:
        cap = float(hours.replace(",", "."))
    except ValueError:
        cap = math.nan
    if not 0 < cap <= MOST_HOURS:
        raise SteerproofError(
            f"a cap on device time is a number of hours above 0 and up to {MOST_HOURS:g}, such as "
            "1.5"
        )
    made = Approval(who=who, hours=cap, at=now())
    with transaction(path) as db:
        db.execute(
            "INSERT INTO approval (number, who, hours, at) VALUES (?,?,?,?)",
            (number, who, cap, made.at),
        )
    return made


def approvals(path: Path, number: int) -> tuple[Approval, ...]:
    """Every cap, newest first; the newest holds."""
    query = f"SELECT who, hours, at FROM approval WHERE number IN ({ITS}) ORDER BY id DESC"
    return tuple(Approval(**row._asdict()) for row in select(path, query, number))


def think(path: Path, number: int, who: str, confidence: str, note: str) -> None:
    """Say how sure one is of the verdict.

    Raises:
        SteerproofError: The confidence is no percentage, or the note is too long.
    """
    sure = int(confidence) if confidence.isascii() and confidence.isdigit() else -1
    if len(confidence) > 3 or not 0 <= sure <= 100:
        raise SteerproofError("confidence is a percentage, 0 to 100")
    text = note.replace("\r\n", "\n").strip()
    if len(text) > LONGEST_NOTE:
        raise SteerproofError(f"a note has at most {LONGEST_NOTE} characters; this has {len(text)}")
    with transaction(path) as db:
        db.execute(
            "INSERT INTO opinion (number, who, confidence, note, at) VALUES (?,?,?,?,?)",
            (number, who, sure, text, now()),
        )


def opinions(path: Path, number: int) -> tuple[Opinion, ...]:
    """The newest opinion of each person, in the order in which they first spoke."""
    query = f"SELECT who, confidence, note, at FROM opinion WHERE number IN ({ITS}) ORDER BY id"
    newest: dict[str, Opinion] = {}
    for row in select(path, query, number):
        before = newest.get(row.who)
        earlier = 0 if before is None else before.earlier + 1
        newest[row.who] = Opinion(**row._asdict(), earlier=earlier)
    return tuple(newest.values())
