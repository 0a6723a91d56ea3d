"""`status`: what a run directory says of itself, without touching it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.driver.pace import Left, pace_of
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.doing import Doing, doings
from steerproof.run.store.hold import LockState, lock_state
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.registration import read_registration
from steerproof.run.store.story import Event, Story, Totals

_EVENTS = 10
"""So much of the timeline's end is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailure:
    """A unit that failed."""

    unit: UnitId
    error: str
    """Its last error."""
    log: str | None
    """Its last log, below the run directory."""
    attempts: int
    """Number of attempts so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What a run directory says of itself."""

    state: str
    """`empty`, `running`, `stalled` (its process is there but gives no sign of life),
    `interrupted`, `failed` or `finished`."""
    units: Mapping[str, Mapping[str, int]]
    """Number of units by kind and state; what a dead process left running is interrupted."""
    lock: LockState
    """Who holds or last held the directory."""
    totals: Totals
    """Sums over every attempt of every call."""
    failures: Sequence[UnitFailure]
    events: Sequence[Event]
    """The end of the timeline, oldest first."""
    doing: Sequence[Doing] = ()
    """What its workers are at, if it is running."""
    left: Left | None = None
    """How long it will go on; None if it is not running, or that is not known yet."""
    problem: str | None = None
    """Why the ledger could not be read, all of this being what the units themselves tell; or what
    is wrong with the registration."""


def status(run: Path) -> RunStatus:
    """Summarise a run directory from its ledger and its lock.

    Args:
        run: The run directory.

    Raises:
        ExperimentError: There is no such directory.
    """
    if not run.is_dir():
        raise ExperimentError(f"{run} is not a run directory: no such directory")
    lock = lock_state(run)
    story = read_ledger(run) or Story()
    states = true_states(story, live=lock.held)
    doing = doings(run, lock.holder.token) if lock.held and lock.holder else ()
    return RunStatus(
        state=_overall(set(states.values()), lock),
        units=by_kind(states),
        lock=lock,
        totals=story.totals,
        failures=[_failure(story, unit) for unit, state in states.items() if state == "failed"],
        events=story.events[-_EVENTS:],
        doing=doing,
        left=pace_of(story).left(time.time(), doing) if lock.held else None,
        problem=story.problem or _registration_problem(run),
    )


def _registration_problem(run: Path) -> str | None:
    try:
        read_registration(run)
    except (IntegrityError, ExperimentError) as error:
        return str(error)
    return None


def true_states(story: Story, *, live: bool) -> dict[UnitId, str]:
    """State of each unit; what a dead process left running is interrupted.

    Args:
        story: The ledger.
        live: Whether a process holds the run directory now.
    """
    if live:
        return dict(story.states)
    dead = {"running": "interrupted"}
    return {unit: dead.get(state, state) for unit, state in story.states.items()}


def units_of(run: Path, kind: str) -> dict[str, str]:
    """The units of a kind and their states, by name.

    Args:
        run: The run directory.
        kind: Such as `cell`; `all` for every kind.

    Raises:
        ExperimentError: There is no such directory, or it has no unit of that kind.
    """
    if not run.is_dir():
        raise ExperimentError(f"{run} is not a run directory: no such directory")
    states = true_states(read_ledger(run) or Story(), live=lock_state(run).held)
    kinds = list(dict.fromkeys(unit.kind for unit in states))
    if kind != "all" and kind not in kinds:
        there = ", ".join(("all", *kinds)) if kinds else "nothing yet"
        raise ExperimentError(f"{run} has no unit of kind {kind!r}; there is {there}")
    return {str(unit): state for unit, state in states.items() if kind in ("all", unit.kind)}


def by_kind(states: Mapping[UnitId, str]) -> dict[str, dict[str, int]]:
    """Number of units in each state, kind by kind."""
    units: dict[str, dict[str, int]] = {}
    for unit, state in states.items():
        kind = units.setdefault(unit.kind, {})
        kind[state] = kind.get(state, 0) + 1
    return units


def _overall(states: set[str], lock: LockState) -> str:
    if lock.held:
        return "stalled" if lock.expired else "running"
    if not states:
        return "empty"
    if states == {"done"}:
        return "finished"
    return "failed" if "failed" in states else "interrupted"


def _failure(story: Story, unit: UnitId) -> UnitFailure:
    attempts = story.attempts_of(unit)
    last = attempts[-1] if attempts else None
    return UnitFailure(
        unit=unit,
        error=(last and last.error) or "",
        log=last and last.log,
        attempts=len(attempts),
    )
