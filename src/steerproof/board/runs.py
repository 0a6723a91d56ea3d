"""What the board reads of a run directory: the one seam between the pages and the files.

Everything here is read-only and derived from what other modules write: the lock file of the
experiment, the ledger, the lease of whoever holds the directory, committed units and results. A
run is *running* only while its holder lives; what a dead process left behind is *interrupted*.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from steerproof.errors import IntegrityError, SteerproofError
from steerproof.run.graph.keys import directory_name
from steerproof.run.store.hold import EXPIRY_SECONDS, Holder, host_name
from steerproof.run.store.ledger import LEDGER, Attempt, Event, Ledger, read_ledger
from steerproof.run.store.manifest import DamagedError, StoredUnit, open_unit
from steerproof.spec.experiment import Experiment
from steerproof.spec.lock import Deviation, Lock, read_deviations, read_lock

SPEC, LOCK, DEVIATIONS = "experiment.yaml", "experiment.lock.json", "deviations.jsonl"
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
    verdict: str | None
    """`SUPPORTED`, `REFUTED`, `INCONCLUSIVE`, or none yet."""
    stamps: Fingerprint
    """Changes whenever the run does."""
    problem: str | None = None
    """Why part of it could not be read."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What was fixed before the first completion, and what was changed later."""

    lock: Lock | None
    """None if it does not match its hash."""
    deviations: tuple[Deviation, ...] = ()
    """Declared departures, oldest first."""
    problem: str | None = None
    """What does not match its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The ledger of a run, read once."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """Key of each unit by id."""
    states: Mapping[str, str] = field(default_factory=dict)
    """State of each unit by id, truthful about dead processes."""
    attempts: tuple[Attempt, ...] = ()
    """All attempts, oldest first."""
    events: tuple[Event, ...] = ()
    """The timeline without the everyday ones."""
    problem: str | None = None
    """Why it could not be read."""


def discover(roots: Iterable[Path]) -> tuple[Path, ...]:
    """Run directories: a root that is one, or the children of a root that are.

    A symbolic link that leads out of its root is not followed.
    """
    found: dict[Path, None] = {}
    for given in roots:
        root = given.resolve()
        if is_run(root):
            found[root] = None
            continue
        children = sorted(root.iterdir()) if root.is_dir() else []
        for child in children:
            place = child.resolve()
            if not child.name.startswith(".") and place.is_relative_to(root) and is_run(place):
                found[place] = None
    return tuple(found)


def is_run(directory: Path) -> bool:
    """Whether this looks like a run directory."""
    return (directory / SPEC).is_file() or (directory / LOCK).is_file()


def fingerprint(run: Path) -> Fingerprint:
    """Changes whenever the run does; costs a few `stat` calls."""
    return (*(_stamp(f"{run}/{name}") for name in _WATCHED), (int(is_live(run)), 0))


def is_live(run: Path) -> bool:
    """Whether a living process holds the run directory, from its newest lease.

    The kernel lock is not probed: taking it, even for a moment, could turn a starting run away.
    """
    holder, age = newest_holder(run)
    if holder is None or holder.released or holder.is_dead():
        return False
    return holder.host == host_name() or age <= EXPIRY_SECONDS


def newest_holder(run: Path) -> tuple[Holder | None, float]:
    """Who holds or last held the directory, and the seconds since its last sign of life."""
    leases = sorted((run / "lock").glob("lease-*.json"))
    if not leases:
        return None, 0.0
    try:
        age = max(0.0, time.time() - leases[-1].stat().st_mtime)
        return Holder(**json.loads(leases[-1].read_bytes())), age
    except (OSError, ValueError, TypeError):
        return None, 0.0


def condition(run: Path) -> Condition:
    """Where the run stands, from a cache that its fingerprint keeps true."""
    return _condition(run, fingerprint(run))


@lru_cache(maxsize=4096)
def _condition(run: Path, stamps: Fingerprint) -> Condition:
    live, states, problem = bool(stamps[-1][0]), {}, None
    try:
        with _ledger(run) as ledger:
            states = _truth(ledger.states(), live) if ledger else {}
    except (IntegrityError, OSError) as error:
        problem = str(error)
    outcome = read_json(run / "results" / "verdict.json")
    word = outcome.get("verdict") if isinstance(outcome, dict) else None
    return Condition(
        live=live,
        states=Counter(states.values()),
        verdict=word if isinstance(word, str) else None,
        stamps=stamps,
        problem=problem,
    )


@contextmanager
def _ledger(run: Path) -> Iterator[Ledger | None]:
    ledger = read_ledger(run)
    try:
        yield ledger
    finally:
        if ledger is not None:
            ledger.close()


def _truth(states: Mapping[str, str], live: bool) -> dict[str, str]:
    """A unit of a dead process is not running."""
    return {u: "interrupted" if s == "running" and not live else s for u, s in states.items()}


def story(run: Path) -> Story:
    """The ledger of a run; empty, with the reason, where it cannot be read."""
    return _story(run, fingerprint(run))


@lru_cache(maxsize=64)
def _story(run: Path, stamps: Fingerprint) -> Story:
    live = bool(stamps[-1][0])
    try:
        with _ledger(run) as ledger:
            if ledger is None:
                return Story()
            keys, states = ledger.keys(), _truth(ledger.states(), live)
            attempts, events = ledger.attempts(), ledger.events(last=5000)
    except (IntegrityError, OSError) as error:
        return Story(problem=str(error))
    shown = tuple(event for event in events if event.what not in _QUIET_EVENTS)
    return Story(keys=keys, states=states, attempts=tuple(attempts), events=shown)


def experiment(run: Path) -> Experiment | None:
    """The locked experiment; none before it is locked or if it cannot be read."""
    return _experiment(run, _stamp(run / LOCK))


@lru_cache(maxsize=512)
def _experiment(run: Path, stamp: Stamp) -> Experiment | None:
    del stamp  # part of the cache key only
    record = read_json(run / LOCK)
    if not isinstance(record, dict):
        return None
    try:
        return Experiment.model_validate_json(json.dumps(record.get("experiment")))
    except ValueError:
        return None


def registration(run: Path) -> Registration | None:
    """The lock with its deviations, hashes checked; none before there is one."""
    try:
        lock = read_lock((run / LOCK).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, SteerproofError) as error:
        return Registration(lock=None, problem=str(error))
    try:
        story = run / DEVIATIONS
        content = story.read_bytes() if story.is_file() else b""
        return Registration(lock=lock, deviations=read_deviations(content, lock))
    except (OSError, IntegrityError) as error:
        return Registration(lock=lock, problem=str(error))


def unit(run: Path, unit_id: str) -> StoredUnit | None:
    """A finished unit with its current key; none if it is not there or is damaged."""
    key = story(run).keys.get(unit_id)
    if key is None:
        return None
    try:
        return open_unit(run / "units" / directory_name(unit_id, key))
    except DamagedError:
        return None


def units_of(run: Path, kind: str) -> dict[str, StoredUnit]:
    """Finished units of a kind, by name."""
    names = [u.partition("/")[2] for u in story(run).keys if u.startswith(f"{kind}/")]
    found = ((name, unit(run, f"{kind}/{name}")) for name in names)
    return {name: stored for name, stored in found if stored is not None}


def training_losses(run: Path) -> dict[str, list[float]]:
    """Loss by step of every trained adapter, by adapter name."""
    losses: dict[str, list[float]] = {}
    for name, stored in units_of(run, "adapter").items():
        try:
            record = json.loads(stored.read("training.json"))
            losses[name] = [float(value) for value in record["losses"]]
        except (KeyError, ValueError, TypeError, DamagedError):
            continue  # an adapter that was loaded, not trained, has no curve
    return losses


def read_json(path: Path) -> Any | None:
    """A JSON file; none if it is missing, torn or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def death(run: Path) -> float | None:
    """When the holder of an interrupted run last gave a sign of life; none if it ended well."""
    holder, age = newest_holder(run)
    if holder is None or holder.released or is_live(run):
        return None
    return time.time() - age


def unix(text: str) -> float:
    """A time of the board's file as Unix time."""
    return datetime.fromisoformat(text).timestamp()


def seconds_left(run: Path) -> tuple[float | None, bool]:
    """Estimated seconds to the end, and whether kinds without any finished unit are left out.

    From this process's attempts only: per kind, wall time per finished unit times what remains.
    """
    holder, _ = newest_holder(run)
    told = story(run)
    if holder is None or not is_live(run):
        return None, False
    remaining = Counter(u.partition("/")[0] for u, s in told.states.items() if s != "done")
    recent = [a for a in told.attempts if a.state == "done" and a.started >= holder.taken]
    total, partial, known = 0.0, False, False
    for kind, count in remaining.items():
        mine = [a for a in recent if a.unit.startswith(f"{kind}/") and a.ended is not None]
        if mine:
            wall = max(a.ended or 0.0 for a in mine) - min(a.started for a in mine)
            total, known = total + wall / len(mine) * count, True
        else:
            partial = True
    return (total if known else None), partial


def title(run: Path) -> str:
    """Title of the locked experiment, or the name of the directory."""
    record = read_json(run / LOCK)
    inner = record.get("experiment") if isinstance(record, dict) else None
    text = inner.get("title") if isinstance(inner, dict) else None
    return text if isinstance(text, str) and text.strip() else run.name


def _stamp(path: Path | str) -> Stamp:
    try:
        stat = os.stat(path)  # noqa: PTH116  thousands of times a second: no Path is made
    except OSError:
        return (0, 0)
    # An empty write-ahead log comes and goes with every reader: it is no change.
    return (0, 0) if stat.st_size == 0 else (stat.st_mtime_ns, stat.st_size)
