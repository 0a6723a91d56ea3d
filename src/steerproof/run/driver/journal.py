"""What the driver does to units, as the ledger keeps it and as listeners hear it."""

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
from steerproof.run.store.store import set_aside


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
        self._listen = listen
        self._progress = progress

    def tell(self, what: str, unit: UnitId | None = None, **detail: object) -> None:
        """An event."""
        self._listen(self._ledger.add_event(what, unit, **detail), self._progress())

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

    def set_stray_aside(self, directory: Path) -> None:
        """Move a directory that is no unit of the experiment and not sound out of the way."""
        aside = set_aside(self._run, directory).relative_to(self._run)
        self.tell("stray-set-aside", None, place=str(aside))

    def _write_log(self, attempt: int, failure: Failure) -> str | None:
        """Keep the traceback; a log that finds no space is not worth the run."""
        name = f"logs/attempt-{attempt:06d}.log"
        path = self._run / name
        with suppress(DiskFullError):
            make_directory(path.parent)
            write_file(path, f"{failure.error}\n\n{failure.trace}".encode())
            return name
        return None
