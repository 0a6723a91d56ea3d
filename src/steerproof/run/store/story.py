"""What a ledger tells, read once: units, attempts and events as records."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, Json

from steerproof.codec import from_values
from steerproof.errors import IntegrityError
from steerproof.run.graph.ids import UnitId

R = TypeVar("R")
Time = Annotated[float, Field(strict=True, ge=-6e10, le=2.5e11, allow_inf_nan=False)]
"""Unix time of a year that a date can have, or seconds: no work took longer either."""
Count = Annotated[int, Field(strict=True, ge=0)]
Words = Annotated[str, Field(strict=True)]
State = Literal["waiting", "running", "done", "failed", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one unit."""

    attempt: Count
    """Its number in the ledger."""
    unit: UnitId
    key: Words
    """The unit's key at the time."""
    state: State
    started: Time
    """Unix time."""
    ended: Time | None
    """Unix time; None while it runs."""
    seconds: Time | None
    """Time the work took; None if it did not end well."""
    host: Words
    pid: Count
    """Process that did the work, or 0 if it is not known."""
    peak_memory: Count | None
    """Largest resident memory of that process so far, bytes."""
    error: Words | None
    """What went wrong."""
    log: Words | None
    """Path of the log below the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: one line of the timeline."""

    time: Time
    """Unix time."""
    what: Words
    """`run-started`, `unit-done`, `unit-failed`, `run-stopped`, `verdict`, ..."""
    unit: UnitId | None
    """The unit, where it concerns one."""
    detail: Json[dict[str, Any]]
    """Whatever else is known; plain JSON, in the ledger as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """A unit of the experiment, as last run."""

    unit: UnitId
    key: Words
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over every attempt of every call, never over what one process remembers."""

    attempts: int
    by_state: Mapping[str, int]
    """Number of attempts in each state."""
    seconds: float
    """Time spent in units that were finished."""
    peak_memory: int | None
    """Largest resident memory of any worker, bytes; None if never measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A ledger, read at one moment."""

    keys: Mapping[UnitId, str] = field(default_factory=dict)
    """Key of each unit of the experiment, as last run."""
    states: Mapping[UnitId, str] = field(default_factory=dict)
    """State of each unit of the experiment; a `running` one may be a dead process's."""
    attempts: tuple[Attempt, ...] = ()
    """Oldest first."""
    events: tuple[Event, ...] = ()
    """Oldest first."""
    problem: str | None = None
    """Why the file could not be read: this story is then what the units themselves tell."""

    def attempts_of(self, unit: UnitId) -> tuple[Attempt, ...]:
        """The attempts at one unit, oldest first."""
        return tuple(attempt for attempt in self.attempts if attempt.unit == unit)

    def last(self, what: str) -> Event | None:
        """The newest event of a sort."""
        return next((event for event in reversed(self.events) if event.what == what), None)

    @property
    def totals(self) -> Totals:
        """Sums over all attempts of all calls."""
        states = [attempt.state for attempt in self.attempts]
        peaks = [a.peak_memory for a in self.attempts if a.peak_memory is not None]
        return Totals(
            attempts=len(states),
            by_state={state: states.count(state) for state in sorted(set(states))},
            seconds=sum((attempt.seconds or 0.0 for attempt in self.attempts), start=0.0),
            peak_memory=max(peaks, default=None),
        )


def read_story(connection: sqlite3.Connection) -> Story:
    """Everything that an open ledger tells.

    Raises:
        IntegrityError: It does not make sense: text that is none, an unknown state, no number
            where one belongs.
    """
    try:
        units = _rows(connection, _Standing, "units", "unit")
        return Story(
            keys={one.unit: one.key for one in units},
            states={one.unit: one.state for one in units},
            attempts=_rows(connection, Attempt, "attempts", "attempt"),
            events=_rows(connection, Event, "events", "event"),
        )
    except (sqlite3.DatabaseError, IntegrityError) as error:
        raise IntegrityError(f"the ledger does not make sense: {error}") from error


def _rows(connection: sqlite3.Connection, kind: type[R], table: str, order: str) -> tuple[R, ...]:
    """The rows of a table as records, whose fields are columns of it."""
    names = [part.name for part in fields(kind)]  # type: ignore[arg-type]
    asked = f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}"
    rows = connection.execute(asked).fetchall()
    told = f"a row of {table}"
    return tuple(from_values(kind, dict(zip(names, row, strict=True)), told) for row in rows)
