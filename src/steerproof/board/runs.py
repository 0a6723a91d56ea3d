"""What the board reads of a run directory: the one seam between the pages and the files.

Everything here is read-only and derived from what other modules write: the lock file of the
experiment, the ledger, the lease of whoever holds the directory, committed units and results. A
run is *running* only while its holder lives; what a dead process left behind is *interrupted*.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from steerproof.codec import read_record
from steerproof.errors import IntegrityError, SteerproofError
from steerproof.run.artefacts import training
from steerproof.run.artefacts.verdict import VerdictHead, read_head
from steerproof.run.commands.status import true_states
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import adapter_unit
from steerproof.run.store.hold import LockState, lock_state
from steerproof.run.store.ledger import LEDGER
from steerproof.run.store.ledger_file import read_ledger
from steerproof.run.store.manifest import DamagedError, StoredUnit, open_unit
from steerproof.run.store.registration import (
    DEVIATIONS,
    LOCK,
    SPEC,
    Registration,
    read_registration,
)
from steerproof.run.store.store import unit_directory
from steerproof.run.store.story import Event, Story
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import AdapterId, cells
from steerproof.study.readouts.load import text_readout
from steerproof.text import clean

_MOST_EVENTS = 5000
"""Newest events of a run that its page looks through."""
_MOST_BYTES = 64 << 20
"""Largest JSON file that is read."""
_WATCHED = (
    *(SPEC, LOCK, DEVIATIONS, LEDGER, f"{LEDGER}-wal"),
    *("results", "units/score", "units/cell"),
    *("results/verdict.json", "results/objections.json", "results/rates.csv"),
)
_QUIET_EVENTS = {"unit-done", "unit-started", "unit-reused", "unit-blocked"}

Stamp = tuple[int, int]
Fingerprint = tuple[Stamp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Where a run stands."""

    live: bool
    """A process holds the directory now."""
    states: Mapping[str, int]
    """Units in each state; a `running` one of a dead process counts as `interrupted`."""
    head: VerdictHead | None
    """The words of the verdict; none yet."""
    stamps: Fingerprint
    """Changes whenever the run does."""
    problem: str | None = None
    """Why part of it could not be read."""

    @property
    def verdict(self) -> str | None:
        """`SUPPORTED`, `REFUTED`, `INCONCLUSIVE`, or none yet."""
        return None if self.head is None else self.head.verdict

    @property
    def changed(self) -> float:
        """Unix time of the last change seen."""
        return max(stamp[0] for stamp in self.stamps[:-1]) / 1e9

    @property
    def total(self) -> int:
        """Units of the experiment."""
        return sum(self.states.values())

    @property
    def done(self) -> int:
        """Finished units."""
        return self.states.get("done", 0)

    @property
    def interrupted(self) -> bool:
        """Work began, is not finished, and nobody is at it."""
        unfinished = self.done < self.total
        return not self.live and self.verdict is None and self._begun and unfinished

    @property
    def failed(self) -> int:
        """Units that failed."""
        return self.states.get("failed", 0)

    @property
    def _begun(self) -> bool:
        return bool(self.done or self.failed or self.states.get("interrupted", 0))


def discover(roots: Iterable[Path]) -> tuple[Path, ...]:
    """Run directories: a root that is one, or the children of a root that are.

    A symbolic link that leads out of its root, or nowhere, is not followed, and a name that is not
    UTF-8 has no address on a page: it is passed over.
    """
    runs: dict[Path, None] = {}
    for root in filter(None, map(resolved, roots)):
        if is_run(root):
            runs[root] = None
            continue
        for child in _children(root):
            place = resolved(child)
            if place is not None and place.is_relative_to(root) and is_run(place):
                runs[place] = None
    return tuple(place for place in runs if _is_text(str(place)))


def resolved(path: Path) -> Path | None:
    """Where a path leads; None for a loop of links, and where nobody may look."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links
        return None


def _children(root: Path) -> list[Path]:
    try:
        return sorted(child for child in root.iterdir() if not child.name.startswith("."))
    except OSError:
        return []


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_run(directory: Path) -> bool:
    """Whether this looks like a run directory, one that may not be entered included."""
    try:
        return (directory / SPEC).is_file() or (directory / LOCK).is_file()
    except OSError:
        return False


def fingerprint(run: Path) -> Fingerprint:
    """Changes whenever the run does; costs a few `stat` calls."""
    return (*(stamp(f"{run}/{name}") for name in _WATCHED), (int(is_live(run)), 0))


def is_live(run: Path) -> bool:
    """Whether a living process holds the run directory, from its newest lease.

    The kernel lock is not probed: taking it, even for a moment, could turn a starting run away.
    """
    return _lock(run).live


def _lock(run: Path) -> LockState:
    try:
        return lock_state(run, probe=False)
    except OSError:
        return LockState(holder=None, heartbeat_age=0.0)


def condition(run: Path) -> Condition:
    """Where the run stands, from a cache that its fingerprint keeps true."""
    return _condition(run, fingerprint(run))


@lru_cache(maxsize=4096)
def _condition(run: Path, stamps: Fingerprint) -> Condition:
    told = _story(run, stamps)
    head, problem = None, told.problem
    try:
        head = read_head(run)
    except (IntegrityError, OSError) as error:
        problem = problem or str(error)
    return Condition(
        live=bool(stamps[-1][0]),
        states=Counter(told.states.values()),
        head=head,
        stamps=stamps,
        problem=problem,
    )


def story(run: Path) -> Story:
    """The ledger of a run, truthful about dead processes; what the units tell if it is damaged."""
    return _story(run, fingerprint(run))


@lru_cache(maxsize=512)
def _story(run: Path, stamps: Fingerprint) -> Story:
    try:
        told = read_ledger(run) or Story()
    except OSError as error:
        return Story(problem=f"{run} cannot be read: {error.strerror}")
    return replace(told, states=true_states(told, live=bool(stamps[-1][0])))


def timeline(run: Path) -> tuple[Event, ...]:
    """The events of a run without the everyday ones."""
    return tuple(e for e in story(run).events[-_MOST_EVENTS:] if e.what not in _QUIET_EVENTS)


def experiment(run: Path) -> Experiment | None:
    """The locked experiment; none before it is locked or if it cannot be read."""
    return _experiment(run, stamp(run / LOCK))


@lru_cache(maxsize=512)
def _experiment(run: Path, changed: Stamp) -> Experiment | None:
    del changed  # part of the cache key only
    try:
        found = _locked(run).experiment
        text_readout(found)  # of a pattern that is none, no page could say what fired
        cells(found)  # nor name cells whose arm or layer is none
    except (KeyError, OSError, ValueError, SteerproofError):
        return None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Locked:
    """As much of a lock as the list of experiments shows, whatever its hash says."""

    experiment: Experiment


def _locked(run: Path) -> _Locked:
    path = run / LOCK
    if not path.is_file():
        raise IntegrityError(f"{path} is no file")
    return read_record(_Locked, path.read_bytes(), str(path))


def registration(run: Path) -> tuple[Registration | None, str | None]:
    """The lock with its deviations, and what is wrong with them; none before there is one."""
    try:
        return read_registration(run), None
    except (OSError, ValueError, SteerproofError) as error:
        return None, str(error)


def unit(run: Path, wanted: UnitId) -> StoredUnit | None:
    """A finished unit with its current key; none if it is not there or is damaged."""
    key = story(run).keys.get(wanted)
    if key is None:
        return None
    try:
        return open_unit(unit_directory(run, wanted, key))
    except DamagedError:
        return None


def training_losses(run: Path, trained: Iterable[AdapterId]) -> dict[AdapterId, tuple[float, ...]]:
    """Loss by step of each of these adapters that was trained here."""
    losses: dict[AdapterId, tuple[float, ...]] = {}
    for adapter in trained:
        stored = unit(run, adapter_unit(adapter))
        if stored is None:
            continue
        with suppress(IntegrityError, KeyError):
            losses[adapter] = training.from_unit(stored).losses
    return {adapter: curve for adapter, curve in losses.items() if curve}


def read_json(path: Path) -> Any | None:
    """A JSON file; none if it is missing, torn, not JSON or too large to be one of ours."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def death(run: Path) -> float | None:
    """When the holder of an interrupted run last gave a sign of life; none if it ended well."""
    lock = _lock(run)
    if lock.holder is None or lock.holder.released or lock.live:
        return None
    return time.time() - lock.heartbeat_age


def unix(text: str) -> float:
    """A time of the board's file as Unix time; 0 where somebody put none in its place."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0


def seconds_left(run: Path) -> tuple[float | None, bool]:
    """Estimated seconds to the end, and whether kinds without any finished unit are left out.

    From this process's attempts only: per kind, wall time per finished unit times what remains.
    """
    lock, told = _lock(run), story(run)
    if lock.holder is None or not lock.live:
        return None, False
    remaining = Counter(unit.kind for unit, state in told.states.items() if state != "done")
    recent = [a for a in told.attempts if a.state == "done" and a.started >= lock.holder.taken]
    total, partial, known = 0.0, False, False
    for kind, count in remaining.items():
        mine = [a for a in recent if a.unit.kind == kind and a.ended is not None]
        if mine:
            wall = max(a.ended or 0.0 for a in mine) - min(a.started for a in mine)
            total, known = total + wall / len(mine) * count, True
        else:
            partial = True
    return (total if known else None), partial


def title(run: Path) -> str:
    """Title of the locked experiment, or the name of the directory."""
    locked = experiment(run)
    return clean(locked.title) if locked is not None and locked.title.strip() else clean(run.name)


def stamp(path: Path | str) -> Stamp:
    """Time of change and size of a file; zeros where there is none or nothing in it."""
    try:
        stat = os.stat(path)  # noqa: PTH116  thousands of times a second: no Path is made
    except (OSError, ValueError):
        return (0, 0)
    # An empty write-ahead log comes and goes with every reader: it is no change.
    return (0, 0) if stat.st_size == 0 else (stat.st_mtime_ns, stat.st_size)
