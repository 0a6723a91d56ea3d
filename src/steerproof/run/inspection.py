"""Looking at a run directory without touching it: `status`, `explain`, `verify`."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerproof.errors import ExperimentError, IntegrityError
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.survey import survey
from steerproof.run.store.hold import LockState, lock_state
from steerproof.run.store.ledger import LEDGER, Event, Ledger, Totals, read_ledger
from steerproof.run.store.manifest import DamagedError, Manifest, Mismatch, open_unit
from steerproof.run.store.store import results_damage, unit_directories, unit_directory

# --- status --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailure:
    """A unit that failed: its last error and log, and the number of attempts so far."""

    unit: str
    error: str
    log: str | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What a run directory says of itself.

    Attributes:
        state: ``empty``, ``running``, ``stalled`` (its process is there but gives no sign of life),
            ``interrupted``, ``failed`` or ``finished``.
        units: Number of units by kind and state; what a dead process left running is interrupted.
        lock: Who holds or last held the directory.
        totals: Sums over every attempt of every call.
        failures: Units that failed.
        events: The end of the timeline, oldest first.
    """

    state: str
    units: Mapping[str, Mapping[str, int]]
    lock: LockState
    totals: Totals
    failures: Sequence[UnitFailure]
    events: Sequence[Event]


def status(run: Path, events: int = 10) -> RunStatus:
    """Summarise a run directory from its ledger and its lock.

    Args:
        run: The run directory.
        events: How much of the timeline to return.

    Raises:
        ExperimentError: There is no such directory.
        IntegrityError: The ledger is damaged; the next run rebuilds it.
    """
    if not run.is_dir():
        raise ExperimentError(f"{run} is not a run directory: no such directory")
    lock = lock_state(run)
    ledger = read_ledger(run)
    if ledger is None:
        totals = Totals(attempts=0, by_state={}, seconds=0.0, peak_memory=None)
        return RunStatus(state="empty", units={}, lock=lock, totals=totals, failures=(), events=())
    try:
        states = ledger.states()
        if not lock.held:
            dead = {"running": "interrupted"}
            states = {unit: dead.get(state, state) for unit, state in states.items()}
        return RunStatus(
            state=_overall(set(states.values()), lock),
            units=_by_kind(states),
            lock=lock,
            totals=ledger.totals(),
            failures=_failures(ledger, states),
            events=ledger.events(events),
        )
    finally:
        ledger.close()


def _overall(states: set[str], lock: LockState) -> str:
    if lock.held:
        return "stalled" if lock.expired else "running"
    if not states:
        return "empty"
    if states == {"done"}:
        return "finished"
    return "failed" if "failed" in states else "interrupted"


def _by_kind(states: Mapping[str, str]) -> dict[str, dict[str, int]]:
    units: dict[str, dict[str, int]] = {}
    for unit, state in states.items():
        kind = units.setdefault(unit.partition("/")[0], {})
        kind[state] = kind.get(state, 0) + 1
    return units


def _failures(ledger: Ledger, states: Mapping[str, str]) -> list[UnitFailure]:
    failures = []
    for unit in (unit for unit, state in states.items() if state == "failed"):
        attempts = ledger.attempts(unit)
        last = attempts[-1]
        failures.append(
            UnitFailure(unit=unit, error=last.error or "", log=last.log, attempts=len(attempts))
        )
    return failures


# --- explain -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that decides a unit's files and is not what it was.

    Attributes:
        unit: The unit whose recipe it is in: the one asked about, or one that it reads.
        field: Where in the recipe, dotted: ``inputs.training.rank``, ``code``, ``model.weights``.
        old: The value that the stored unit was made from, as JSON; None if it had none.
        new: The value asked for now; None if there is none.
    """

    unit: str
    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.unit}: {self.field} was {self.old!r} and is {self.new!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a unit is, or is not, reused.

    Attributes:
        unit: The unit's id.
        reused: Whether the next run takes it as it is.
        reason: One sentence.
        changes: What changed since it, or a unit that it reads, was last made.
        damage: Files that are not what their manifest says.
    """

    unit: str
    reused: bool
    reason: str
    changes: Sequence[Change] = ()
    damage: Sequence[Mismatch] = ()


def explain(run: Path, graph: Graph, unit: str) -> Explanation:
    """Say whether the next run reuses a unit, and why.

    Raises:
        ExperimentError: The experiment has no such unit.
    """
    if unit not in graph.units:
        near = difflib.get_close_matches(unit, graph.units, n=3)
        meant = f": did you mean {' or '.join(near)}?" if near else ""
        raise ExperimentError(f"the experiment has no unit {unit!r}{meant}")
    found = survey(run, graph)
    if unit in found.reused:
        made = found.reused[unit].manifest.made
        reason = f"its key and files are as on {made.created}, when it was made"
        return Explanation(unit=unit, reused=True, reason=reason)
    if unit in found.damaged:
        reason = "a file is not what its manifest says"
        return Explanation(unit=unit, reused=False, reason=reason, damage=found.damaged[unit])
    if unit in found.kept:
        again = [read for read in graph.units[unit].upstream if read not in found.reused]
        what = (
            f"it reads {', '.join(again[:5])}, to be done first"
            if again
            else ("a unit that it reads was made again and came out different")
        )
        reason = f"{what}; it is kept if what it reads comes out as it was"
        return Explanation(unit=unit, reused=False, reason=reason)
    last = _last_made(run, unit)
    if last is None:
        return Explanation(unit=unit, reused=False, reason=_never_made(run, unit))
    changes = tuple(_changes(run, graph, unit, last))
    reason = "something that decides its files has changed since it was made"
    return Explanation(unit=unit, reused=False, reason=reason, changes=changes)


def _never_made(run: Path, unit: str) -> str:
    ledger = read_ledger(run)
    if ledger is None:
        return "it was never made"
    try:
        attempts = ledger.attempts(unit)
    finally:
        ledger.close()
    if not attempts:
        return "it was never made"
    last = attempts[-1]
    log = f" (log: {last.log})" if last.log else ""
    return f"it was never finished; the last attempt {last.state}: {last.error}{log}"


def _last_made(run: Path, unit: str) -> Manifest | None:
    """The newest manifest of a unit of this name, whatever its key."""
    kind, _, name = unit.partition("/")
    found: list[Manifest] = []
    for directory in (run / "units" / kind).glob(f"{name}-*"):
        try:
            manifest = open_unit(directory).manifest
        except DamagedError:
            continue
        if manifest.unit == unit:
            found.append(manifest)
    return max(found, key=lambda manifest: manifest.made.created, default=None)


def _changes(run: Path, graph: Graph, unit: str, last: Manifest) -> list[Change]:
    """What changed in a unit's recipe, and in those of the units that it reads."""
    changes: list[Change] = []
    todo, seen = [(unit, last)], {unit}
    while todo:
        current, made = todo.pop()
        old, new = _flat(made.recipe), _flat(graph.recipes[current].record())
        for field in sorted(old.keys() | new.keys()):
            if old.get(field) == new.get(field):
                continue
            read = field.removeprefix("upstream.")
            before = _manifest(run, read, old[field]) if _both(field, old, new) else None
            if before is None:
                changes.append(
                    Change(unit=current, field=field, old=old.get(field), new=new.get(field))
                )
            elif read not in seen:
                seen.add(read)
                todo.append((read, before))
    return changes


def _both(field: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a field names an upstream unit that is read now as it was before."""
    return field.startswith("upstream.") and field in old and field in new


def _manifest(run: Path, unit: str, key: str) -> Manifest | None:
    try:
        return open_unit(unit_directory(run, unit, key)).manifest
    except DamagedError:
        return None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON as dotted paths."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return flat


# --- verify --------------------------------------------------------------------------------------


def verify(run: Path) -> list[Mismatch]:
    """Hash every file of every unit and result again.

    Returns:
        Everything that is not what its manifest says, and every unit that the ledger knows as
        finished and the disk does not have.
    """
    found: list[Mismatch] = []
    for directory in unit_directories(run):
        try:
            found += open_unit(directory).damage()
        except DamagedError as error:
            found.append(error.mismatch)
    return found + _missing(run) + results_damage(run)


def raise_mismatches(mismatches: Sequence[Mismatch], command: str) -> None:
    """Name the files that do not match.

    Raises:
        IntegrityError: There are any.
    """
    if not mismatches:
        return
    lines = [f"{len(mismatches)} files do not match their recorded hash:"]
    lines += [f"  {mismatch}" for mismatch in mismatches[:20]]
    if len(mismatches) > 20:
        lines.append(f"  and {len(mismatches) - 20} more")
    lines.append(f"To set the damaged units aside and do them again: {command}")
    raise IntegrityError("\n".join(lines))


def _missing(run: Path) -> list[Mismatch]:
    try:
        ledger = read_ledger(run)
    except IntegrityError as error:
        actual = str(error.__cause__)
        return [
            Mismatch(path=run / LEDGER, problem="unreadable", expected="a ledger", actual=actual)
        ]
    if ledger is None:
        return []
    try:
        keys, states = ledger.keys(), ledger.states()
    finally:
        ledger.close()
    places = {unit: unit_directory(run, unit, keys[unit]) for unit in keys}
    return [
        Mismatch(path=places[unit], problem="missing", expected="a unit", actual="no directory")
        for unit, state in states.items()
        if state == "done" and not places[unit].exists()
    ]
