"""Where each entry stands: its column on the board, and what its card says."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from steerproof.board import entries, jobs, runs
from steerproof.board.answers import Answer, answers_of
from steerproof.board.context import Board
from steerproof.board.entries import Entry
from steerproof.board.jobs import BoardJob
from steerproof.board.proposals import STATUSES
from steerproof.board.runs import Condition
from steerproof.run.artefacts.verdict import VerdictHead
from steerproof.text import span


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """An entry with its derived status."""

    entry: Entry
    status: str
    """One of `STATUSES`."""
    note: str | None
    """`interrupted`, `failed` or nothing: the word of the second badge."""
    condition: Condition | None
    """None without a run directory."""
    jobs: tuple[BoardJob, ...]
    """Jobs that the board started for it, oldest first."""
    changed: float
    """Unix time of the last change."""

    @property
    def verdict(self) -> str | None:
        """`SUPPORTED`, `REFUTED`, `INCONCLUSIVE` or none yet."""
        return self.condition.verdict if self.condition else None

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The three answers; none yet."""
        return answers_of(self.head)

    @property
    def head(self) -> VerdictHead | None:
        """The words of the verdict; none yet."""
        return self.condition.head if self.condition else None

    @property
    def busy(self) -> BoardJob | None:
        """The job of this board that is going on."""
        return next((job for job in self.jobs if job.alive), None)

    @property
    def age(self) -> str:
        """Time since the last change."""
        return ago(self.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What the list is filtered by; empty means everything."""

    text: str = ""
    kind: str = ""
    tag: str = ""
    parent: int | None = None


def card(board: Board, entry: Entry) -> Card:
    """The card of an entry, from its run directory as it is now."""
    return _card(entry, jobs.jobs(board.file, entry.number))


def all_cards(board: Board) -> list[Card]:
    """The cards of all entries, newest number first."""
    by_entry = jobs.all_jobs(board.file)
    return [_card(e, by_entry.get(e.number, ())) for e in entries.entries(board.file)]


def _card(entry: Entry, mine: tuple[BoardJob, ...]) -> Card:
    condition = None
    if entry.directory is not None and entry.directory.is_dir():
        condition = runs.condition(entry.directory)
    created = runs.unix(entry.created)
    return Card(
        entry=entry,
        status=_status(entry, condition, mine),
        note=_note(condition),
        condition=condition,
        jobs=mine,
        changed=(condition.changed if condition else 0.0) or created,
    )


def columns(cards: Iterable[Card]) -> dict[str, list[Card]]:
    """Cards by status, in the order of an experiment's life."""
    by_status: dict[str, list[Card]] = {status: [] for status in STATUSES}
    for one in cards:
        by_status[one.status].append(one)
    return by_status


def matches(entry: Entry, query: Query) -> bool:
    """Whether an entry passes the filter."""
    words = f"#{entry.number} {entry.title} {entry.kind} {' '.join(entry.tags)}".casefold()
    return (
        all(word in words for word in query.text.casefold().split())
        and query.kind in ("", entry.kind)
        and (not query.tag or query.tag in entry.tags)
        and (query.parent is None or query.parent in (entry.parent, *entry.lineage))
    )


def children(everything: Sequence[Entry], number: int) -> tuple[Entry, ...]:
    """Entries that name this one as their parent or in their lineage."""
    return tuple(e for e in everything if number in (e.parent, *e.lineage))


def ago(moment: float) -> str:
    """Time since a Unix time, in one unit: `3 min ago`."""
    return f"{span(max(0.0, time.time() - moment))} ago"


def since(at: str) -> str:
    """Time since an ISO 8601 time: `3 min`."""
    return span(max(0.0, time.time() - datetime.fromisoformat(at).timestamp()))


def moment(value: float | str) -> str:
    """A time as people read it, in UTC: `2026-03-01 14:05`."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except ValueError:
            return value
    try:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):  # of a file whose time somebody set
        return "no date"


def _status(entry: Entry, condition: Condition | None, mine: Sequence[BoardJob]) -> str:
    running = any(job.kind == "run" and job.alive for job in mine)
    if entry.archived:
        return "archived"
    if running or (condition is not None and condition.live):
        return "running"
    if entry.held:
        return entry.held
    if condition is not None:
        return "judged" if condition.verdict else "planned"
    planned = any(job.kind == "plan" and job.code == 0 for job in mine)
    return "planned" if planned else "proposed"


def _note(condition: Condition | None) -> str | None:
    if condition is None or condition.live:
        return None
    if condition.failed:
        return "failed"
    return "interrupted" if condition.interrupted else None
