"""What the driver does to units, as the ledger keeps it and as listeners hear it."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from steerproof.errors import DiskFullError
from steerproof.run.driver.summary import FailedUnit, Listener, Progress
from steerproof.run.driver.worker import Failure
from steerproof.run.graph.frontier import Decision
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.directory import RunDirectory
from steerproof.run.store.files import make_directory, write_file
from steerproof.run.store.manifest import DamagedError, StoredUnit, open_unit
from steerproof.run.store.store import commit, set_aside, unit_directories, unit_directory
from steerproof.run.store.story import Event


class Journal:
    """Each thing that happens, once in the ledger and once to the listener."""

    def __init__(
        self, directory: RunDirectory, listen: Listener, progress: Callable[[], Progress]
    ) -> None:
        """Begin.

        Args:
            directory: The run directory, held by this process.
            listen: Told of each event.
            progress: The numbers at the moment of an event.
        """
        self.failures: dict[UnitId, FailedUnit] = {}
        """Units that were given up."""
        self._run = directory.path
        self._ledger = directory.ledger
        self._lock = directory.lock
        self._listen = listen
        self._progress = progress

    def tell(self, what: str, unit: UnitId | None = None, **detail: object) -> None:
        """An event."""
        self._listen(self._ledger.add_event(what, unit, **detail), self._progress())

    def started(self, units: Sequence[UnitId]) -> None:
        """Work on units begins; the ledger has it as their attempts."""
        for unit in units:
            event = Event(time=time.time(), what="unit-started", unit=unit, detail={})
            self._listen(event, self._progress())

    def decided(self, decisions: Sequence[Decision]) -> None:
        """What became of units without any work."""
        for decision in decisions:
            if decision.what == "unit-reused":
                self._ledger.set_state(decision.unit, "done")
            self.tell(decision.what, decision.unit, by=[str(unit) for unit in decision.by])

    def interrupted(self, attempts: Mapping[UnitId, int], why: str) -> None:
        """Attempts that ended without being anybody's fault."""
        for unit, attempt in attempts.items():
            self._ledger.fail(attempt, "interrupted", why, None)
            self._ledger.set_state(unit, "interrupted")

    def failed(self, unit: UnitId, attempt: int, failure: Failure, *, again: bool) -> None:
        """An attempt that failed.

        Args:
            unit: The unit.
            attempt: Its number.
            failure: Why.
            again: Whether the unit is tried again; else it is given up.
        """
        log = self._write_log(attempt, failure)
        self._ledger.fail(attempt, "failed", failure.error, log)
        self._ledger.set_state(unit, "waiting" if again else "failed")
        if not again:
            self.failures[unit] = FailedUnit(unit=unit, error=failure.error, log=log)
        self.tell("unit-retried" if again else "unit-failed", unit, error=failure.error, log=log)

    def set_aside(self, unit: UnitId, directory: Path, reasons: Sequence[str]) -> None:
        """Move a unit that is not to be used out of the way."""
        aside = set_aside(self._run, directory).relative_to(self._run)
        with self._ledger.transaction():
            self._ledger.set_state(unit, "waiting")
            self.tell("unit-set-aside", unit, place=str(aside), reasons=list(reasons))

    def strays_set_aside(self, keys: Mapping[UnitId, str]) -> None:
        """Move damaged units of earlier experiments, and copies that are no units, away.

        Nothing reads them, but `verify` finds them, and what it advises must help.

        Args:
            keys: Key of each unit of this experiment: those are seen to one by one.
        """
        ours = {unit_directory(self._run, unit, key) for unit, key in keys.items()}
        for directory in [place for place in unit_directories(self._run) if place not in ours]:
            with suppress(DamagedError):
                if not open_unit(directory).damage():
                    continue
            aside = set_aside(self._run, directory).relative_to(self._run)
            self.tell("stray-set-aside", None, place=str(aside))

    def committed(self, unit: UnitId, prepared: Path, keys: Mapping[UnitId, str]) -> StoredUnit:
        """Make a prepared unit exist, in place of one that was made from something else.

        Args:
            unit: The unit.
            prepared: Where its worker left it.
            keys: Key of each unit.

        Raises:
            DamagedError: What was prepared is not the unit, or not what its manifest says.
            LockedError: Another process took the run directory over.
        """
        self._lock.check()
        target = unit_directory(self._run, unit, keys[unit])
        if target.exists():
            self.set_aside(unit, target, ["made from upstream units that have changed since"])
        return commit(self._run, prepared, unit, keys[unit])

    def _write_log(self, attempt: int, failure: Failure) -> str | None:
        """Keep the traceback; a log that finds no space is not worth the run."""
        name = f"logs/attempt-{attempt:06d}.log"
        path = self._run / name
        with suppress(DiskFullError):
            make_directory(path.parent)
            write_file(path, f"{failure.error}\n\n{failure.trace}".encode())
            return name
        return None
