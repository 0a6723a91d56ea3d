"""The driver: does what is missing of a graph, each unit once, and says what it does.

Nothing here knows what a unit is about. Units are given to an executor in orders; a unit is done
when its prepared directory has been verified, the fencing token checked and the rename made.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from steerproof.errors import DiskFullError, LockedError, UnitsFailedError
from steerproof.run.driver.executors import Executor
from steerproof.run.driver.worker import Failure, Order, OrderItem, Report, failure_of
from steerproof.run.graph.frontier import Decision, Frontier, Group
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.survey import survey
from steerproof.run.store.directory import RunDirectory
from steerproof.run.store.files import make_directory, write_file
from steerproof.run.store.hold import host_name
from steerproof.run.store.ledger import Event
from steerproof.run.store.manifest import DamagedError, StoredUnit
from steerproof.run.store.store import commit, prepared_units, set_aside, sweep, unit_directory

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient the driver is.

    Attributes:
        attempts: Most tries at one unit in one call, if the cause of its failure can pass.
        grace: Seconds that a unit in hand gets to finish when the run is stopped.
    """

    attempts: int = 3
    grace: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedUnit:
    """A unit that could not be done: its id, the error, and the log below the run directory."""

    unit: str
    error: str
    log: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the run is; the numbers of units add up to ``total`` with those that wait.

    Attributes:
        total: Units in the graph.
        reused: Units that were finished before, and are whole.
        done: Units finished by this call.
        running: Units in hand.
        failed: Units that failed.
        blocked: Units that read a failed one.
    """

    total: int
    reused: int
    done: int
    running: int
    failed: int
    blocked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a call ended.

    Attributes:
        progress: The last numbers.
        failures: Units that failed.
        blocked: Ids of the units that could not begin because of them.
        stopped: Whether it was asked to stop.
    """

    progress: Progress
    failures: Sequence[FailedUnit]
    blocked: Sequence[str]
    stopped: bool


Listener = Callable[[Event, Progress], None]
_PATIENT = Policy()


def _ignore(event: Event, progress: Progress) -> None:
    """Listen to nothing."""


def execute(
    graph: Graph,
    directory: RunDirectory,
    executor: Executor,
    policy: Policy = _PATIENT,
    listen: Listener = _ignore,
) -> Summary:
    """Do every unit of a graph that is not there yet.

    Ctrl-C and SIGTERM end it in good order: the unit in hand is finished, or dropped after the
    policy's grace, and the summary says that it was stopped.

    Args:
        graph: What there is to do.
        directory: The run directory, held by this process.
        executor: Where the work is done; closed at the end.
        policy: Attempts and patience.
        listen: Told of each event, for progress on a screen.

    Raises:
        DiskFullError: No space; finished units are kept.
        LockedError: Another process took the run directory over.
    """
    driver = _Driver(graph, directory, executor, policy)
    driver.listen = listen
    try:
        driver.begin()
        driver.loop(directory.stopping)
        return driver.end(stopped=directory.stopping.is_set())
    finally:
        executor.close()
        with suppress(LockedError):
            directory.lock.check()
            sweep(directory.path)


def raise_failures(summary: Summary, command: str) -> None:
    """Name the units that failed, their logs, and the command that tries them again.

    Raises:
        UnitsFailedError: Some units failed.
    """
    if not summary.failures:
        return
    lines = [f"{len(summary.failures)} of {summary.progress.total} units failed:"]
    causes: dict[str, list[FailedUnit]] = {}
    for failed in summary.failures:
        causes.setdefault(failed.error, []).append(failed)
    for error, units in list(causes.items())[:10]:
        named = ", ".join(failed.unit for failed in units[:5])
        more = f" and {len(units) - 5} more" if len(units) > 5 else ""
        log = f" (log: {units[0].log})" if units[0].log else ""
        lines.append(f"  {named}{more}: {error}{log}")
    if len(causes) > 10:
        lines.append(f"  and {len(causes) - 10} more causes; see `steerproof status`")
    if summary.blocked:
        lines.append(f"{len(summary.blocked)} units that read them could not begin.")
    lines.append(f"The others are finished and kept. To try these again: {command}")
    raise UnitsFailedError("\n".join(lines))


@dataclass(slots=True)
class _Running:
    """An order in hand: its units that have not ended, with their attempts, and whether any has."""

    group: Group
    left: dict[str, int]
    ended_any: bool = False


class _Driver:
    """The state of one call of `execute`."""

    def __init__(
        self, graph: Graph, directory: RunDirectory, executor: Executor, policy: Policy
    ) -> None:
        self.listen: Listener = _ignore
        self._graph, self._directory = graph, directory
        self._executor, self._policy = executor, policy
        self._ledger = directory.ledger
        self._found = survey(directory.path, graph)
        self._frontier = Frontier(graph, self._found)
        self._failures: dict[str, FailedUnit] = {}
        self._charges: dict[str, int] = {}
        self._orders: dict[int, _Running] = {}
        self._number = 0

    # Beginning and end

    def begin(self) -> None:
        """Take over what is there, set aside what is damaged, and see what can begin."""
        found = self._found
        with self._ledger.transaction():
            self._ledger.register(self._graph.keys, found.reused)
            there = (*found.reused.values(), *found.kept.values())
            self._ledger.adopt(stored.manifest for stored in there)
        for unit, mismatches in found.damaged.items():
            damaged = unit_directory(self._directory.path, unit, self._graph.keys[unit])
            self._set_aside(unit, damaged, [str(mismatch) for mismatch in mismatches])
        with self._ledger.transaction():
            self._tell("units-planned", reused=len(found.reused), todo=len(found.todo))
            self._tell_decisions(self._frontier.begin())

    def loop(self, stopping: threading.Event) -> None:
        """Give orders and hear reports until nothing is left, or the run is stopped."""
        deadline = math.inf
        while time.monotonic() < deadline:
            if stopping.is_set() and deadline == math.inf:
                deadline = time.monotonic() + self._policy.grace
                self._tell("stopping", in_hand=self._in_hand())
                self._executor.stop()
            if deadline == math.inf:
                self._dispatch()
            if not self._orders:
                break
            self._hear(self._executor.poll(POLL_SECONDS), stopped=deadline < math.inf)

    def end(self, stopped: bool) -> Summary:
        """Record what was dropped and how it ended."""
        self._directory.lock.check()
        with self._ledger.transaction():
            for running in self._orders.values():
                self._interrupt(running.left, "the run was stopped")
            self._orders.clear()
            progress = self._progress()
            what = "run-stopped" if stopped else "run-ended"
            self._tell(what, done=progress.done, failed=progress.failed, reused=progress.reused)
        return Summary(
            progress=progress,
            failures=tuple(self._failures.values()),
            blocked=tuple(self._frontier.blocked),
            stopped=stopped,
        )

    def _dispatch(self) -> None:
        # A worker that has done its last unit is free in a moment: the queue is shared with it too.
        if any(not running.left for running in self._orders.values()):
            return
        while taken := self._frontier.take(self._executor.free(), busy=bool(self._orders)):
            self._order(*taken)

    def _order(self, group: Group, units: Sequence[str]) -> None:
        """Record that work on some units begins, and give them to a worker."""
        keys = {unit: self._graph.keys[unit] for unit in units}
        attempts = self._ledger.start(keys, host_name().partition(" ")[0])
        items = tuple(
            OrderItem(
                recipe=self._graph.recipes[unit],
                attempt=attempts[unit],
                present=tuple(
                    read
                    for read in self._graph.units[unit].upstream
                    if read in self._frontier.finished
                ),
                context=self._graph.units[unit].context,
            )
            for unit in units
        )
        self._number += 1
        self._orders[self._number] = _Running(group=group, left=attempts)
        run = self._directory.path
        self._executor.submit(Order(number=self._number, run=run, work=group[0], items=items))
        for unit in units:
            event = Event(time=time.time(), what="unit-started", unit=unit, detail={})
            self.listen(event, self._progress())

    # What the workers say

    def _hear(self, reports: Sequence[Report], stopped: bool) -> None:
        """Commit what was prepared, then put all of it into the ledger in one transaction."""
        committed: list[tuple[int, StoredUnit, int]] = []
        rest: list[Report] = []
        for report in (*self._unreported(reports), *reports):
            if report.unit is None or report.prepared is None:
                rest.append(report)
                continue
            try:
                stored = self._commit(report.unit, report.prepared)
            except DamagedError as error:
                rest.append(replace(report, prepared=None, failure=failure_of(error)))
                continue
            attempt = self._ended(report.order, report.unit)
            committed.append((attempt, stored, report.pid))
        if committed:
            self._ledger.finish(
                (attempt, stored.manifest, pid) for attempt, stored, pid in committed
            )
        with self._ledger.transaction():
            for _, stored, _ in committed:
                made = stored.manifest
                decisions = self._frontier.finish(made.unit, stored)
                self._tell("unit-done", made.unit, seconds=made.made.seconds)
                self._tell_decisions(decisions)
            for report in rest:
                self._hear_bad(report, stopped)

    def _unreported(self, reports: Sequence[Report]) -> list[Report]:
        """What lost workers had finished on the disk and could not say any more."""
        told = {report.unit for report in reports}
        found: list[Report] = []
        for report in reports:
            if report.unit is not None or report.failure is None:
                continue
            left = self._orders[report.order].left
            for stored in prepared_units(
                self._directory.path, {unit.partition("/")[0] for unit in left}
            ):
                made = stored.manifest
                if left.get(made.unit) == made.made.attempt and made.unit not in told:
                    found.append(
                        replace(report, unit=made.unit, prepared=stored.directory, failure=None)
                    )
        return found

    def _ended(self, order: int, unit: str) -> int:
        """Note that a unit of an order has ended; returns its attempt."""
        running = self._orders[order]
        running.ended_any = True
        return running.left.pop(unit)

    def _commit(self, unit: str, prepared: Path) -> StoredUnit:
        run, key = self._directory.path, self._graph.keys[unit]
        self._directory.lock.check()
        target = unit_directory(run, unit, key)
        if target.exists():
            self._set_aside(unit, target, ["made from upstream units that have changed since"])
        return commit(run, prepared, unit, key)

    def _hear_bad(self, report: Report, stopped: bool) -> None:
        """Deal with a failed unit, or with the end of an order."""
        failure = report.failure
        if failure is not None and failure.disk_full:
            raise DiskFullError(failure.error.partition(": ")[2])
        if report.unit is not None and failure is not None:
            self._fail(report.unit, self._ended(report.order, report.unit), failure)
            return
        running = self._orders.pop(report.order)
        if stopped:
            self._interrupt(running.left, "the run was stopped")
        elif failure is not None:
            self._fail_order(running, failure)

    def _fail_order(self, running: _Running, failure: Failure) -> None:
        """Deal with an order that ended before its units did.

        If the cause can pass, the first unit left is taken to be the one in hand and is charged
        with it; the others go on, in smaller orders if none of this one was finished, so that a
        unit that kills its worker ends up alone.
        """
        charged = list(running.left)[: 1 if failure.passing else None]
        others = {unit: number for unit, number in running.left.items() if unit not in charged}
        if not running.ended_any:
            self._frontier.take_fewer(running.group, len(running.left) // 2)
        self._interrupt(others, failure.error)
        self._frontier.put_back(others)
        for unit in charged:
            self._fail(unit, running.left[unit], failure)

    def _fail(self, unit: str, attempt: int, failure: Failure) -> None:
        """Record a failed attempt; try again if that can help."""
        log = self._write_log(attempt, failure)
        self._ledger.fail(attempt, "failed", failure.error, log)
        self._charges[unit] = self._charges.get(unit, 0) + 1
        if failure.passing and self._charges[unit] < self._policy.attempts:
            self._ledger.set_state(unit, "waiting")
            self._tell("unit-retried", unit, error=failure.error, log=log)
            self._frontier.put_back([unit])
            return
        self._failures[unit] = FailedUnit(unit=unit, error=failure.error, log=log)
        self._ledger.set_state(unit, "failed")
        self._tell("unit-failed", unit, error=failure.error, log=log)
        self._tell_decisions(self._frontier.give_up(unit))

    def _interrupt(self, attempts: Mapping[str, int], why: str) -> None:
        for unit, attempt in attempts.items():
            self._ledger.fail(attempt, "interrupted", why, None)
            self._ledger.set_state(unit, "interrupted")

    def _write_log(self, attempt: int, failure: Failure) -> str | None:
        """Keep the traceback; a log that finds no space is not worth the run."""
        name = f"logs/attempt-{attempt:06d}.log"
        path = self._directory.path / name
        with suppress(DiskFullError):
            make_directory(path.parent)
            write_file(path, f"{failure.error}\n\n{failure.trace}".encode())
            return name
        return None

    def _set_aside(self, unit: str, place: Path, reasons: Sequence[str]) -> None:
        run = self._directory.path
        aside = set_aside(run, place).relative_to(run)
        with self._ledger.transaction():
            self._ledger.set_state(unit, "waiting")
            self._tell("unit-set-aside", unit, place=str(aside), reasons=list(reasons))

    # Telling

    def _tell_decisions(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if decision.what == "unit-reused":
                self._ledger.set_state(decision.unit, "done")
            self._tell(decision.what, decision.unit, by=list(decision.by))

    def _tell(self, what: str, unit: str | None = None, **detail: object) -> None:
        self.listen(self._ledger.add_event(what, unit, **detail), self._progress())

    def _in_hand(self) -> int:
        return sum(len(running.left) for running in self._orders.values())

    def _progress(self) -> Progress:
        return Progress(
            total=len(self._graph.units),
            reused=self._frontier.reused,
            done=len(self._frontier.finished) - self._frontier.reused,
            running=self._in_hand(),
            failed=len(self._failures),
            blocked=len(self._frontier.blocked),
        )
