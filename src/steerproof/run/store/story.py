"""What a ledger tells, read once: units, attempts and events as records."""

import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.graph.ids import UnitId

_AGES = (-6e10, 2.5e11)
"""Unix times of the years that a date can have; no work took longer either."""
_STATES = ("waiting", "running", "done", "failed", "interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one unit."""

    attempt: int
    """Its number in the ledger."""
    unit: UnitId
    key: str
    """The unit's key at the time."""
    state: str
    """One of `_STATES`."""
    started: float
    """Unix time."""
    ended: float | None
    """Unix time; None while it runs."""
    seconds: float | None
    """Time the work took; None if it did not end well."""
    host: str
    pid: int
    """Process that did the work, or 0 if it is not known."""
    peak_memory: int | None
    """Largest resident memory of that process so far, bytes."""
    error: str | None
    """What went wrong."""
    log: str | None
    """Path of the log below the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened: one line of the timeline."""

    time: float
    """Unix time."""
    what: str
    """`run-started`, `unit-done`, `unit-failed`, `run-stopped`, `verdict`, ..."""
    unit: UnitId | None
    """The unit, where it concerns one."""
    detail: Mapping[str, Any]
    """Whatever else is known; plain JSON."""


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
        units = connection.execute("SELECT unit, key, state FROM units ORDER BY unit").fetchall()
        tries = connection.execute(
            "SELECT attempt, unit, key, state, started, ended, seconds, host, pid, peak_memory,"
            " error, log FROM attempts ORDER BY attempt"
        ).fetchall()
        told = connection.execute(
            "SELECT time, what, unit, detail FROM events ORDER BY event"
        ).fetchall()
        return Story(
            keys={UnitId.parse(_text(unit)): _text(key) for unit, key, _ in units},
            states={UnitId.parse(unit): _state(state) for unit, _, state in units},
            attempts=tuple(_attempt(row) for row in tries),
            events=tuple(_event(row) for row in told),
        )
    except (sqlite3.DatabaseError, ExperimentError, ValueError, RecursionError) as error:
        raise IntegrityError(f"the ledger does not make sense: {error}") from error


def _attempt(row: tuple[Any, ...]) -> Attempt:
    attempt, unit, key, state, started, ended, seconds, host, pid, peak_memory, error, log = row
    for number in (attempt, pid, peak_memory):
        if number is not None and not _is_number(number, 0.0, math.inf):
            raise ValueError(f"attempt {attempt!r} has {number!r} in place of a number")
    for number in (started, ended, seconds):
        if number is not None and not _is_number(number, *_AGES):
            raise ValueError(f"attempt {attempt!r} has {number!r} in place of a time")
    if started is None or pid is None:
        raise ValueError(f"attempt {attempt!r} has no start or process")
    return Attempt(
        attempt=attempt,
        unit=UnitId.parse(_text(unit)),
        key=_text(key),
        state=_state(state),
        started=started,
        ended=ended,
        seconds=seconds,
        host=_text(host),
        pid=pid,
        peak_memory=peak_memory,
        error=None if error is None else _text(error),
        log=None if log is None else _text(log),
    )


def _event(row: tuple[Any, ...]) -> Event:
    time, what, unit, detail = row
    known = json.loads(_text(detail))
    if not isinstance(known, dict) or not _is_number(time, *_AGES):
        raise ValueError(f"event {what!r} has no time or no detail")
    return Event(
        time=time,
        what=_text(what),
        unit=None if unit is None else UnitId.parse(_text(unit)),
        detail=known,
    )


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and low <= value <= high


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} in place of text")
    return value


def _state(value: object) -> str:
    if value not in _STATES:
        raise ValueError(f"{value!r} is no state of a unit")
    return _text(value)
