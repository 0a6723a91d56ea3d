"""The driver: does what is missing of a graph, each unit once, and says what it does.

Nothing here knows what a unit is about. Units are given to an executor in orders; a unit is done
when its prepared directory has been verified, the fencing token checked and the rename made.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from steerproof.errors import DiskFullError, LockedError
from steerproof.run.driver.blame import Blame
from steerproof.run.driver.executors import Executor
from steerproof.run.driver.journal import Journal
from steerproof.run.driver.orders import Orders, Running
from steerproof.run.driver.summary import Listener, Progress, Summary
from steerproof.run.driver.worker import Failure, WorkReport, failure_of
from steerproof.run.graph.frontier import Frontier, Group
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.survey import Survey, survey
from steerproof.run.store.directory import RunDirectory
from steerproof.run.store.holder import host_name
from steerproof.run.store.manifest import DamagedError, StoredUnit
from steerproof.run.store.store import sweep, unit_directory
from steerproof.run.store.story import Event

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient the driver is."""

    attempts: int = 3
    """Most tries at one unit in one call, if the cause of its failure can pass."""
    grace: float = 8.0
    """Seconds that a unit in hand gets to finish when the run is stopped."""


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
    orders = Orders(graph, directory.path, directory.lock.token, executor)
    driver = _Driver(graph, directory, orders, policy, listen)
    try:
        driver.begin()
        driver.loop(directory.stopping)
        return driver.end(stopped=directory.stopping.is_set())
    finally:
        executor.close()
        with suppress(LockedError):
            directory.lock.check()
            sweep(directory.path)


def _planned(known: Survey) -> dict[str, Any]:
    kinds = Counter(unit.kind for unit in known.todo)
    return {"reused": len(known.reused), "todo": len(known.todo), "kinds": dict(kinds)}


class _Driver:
    """The state of one call of `execute`."""

    def __init__(
        self,
        graph: Graph,
        directory: RunDirectory,
        orders: Orders,
        policy: Policy,
        listen: Listener,
    ) -> None:
        self._graph, self._directory, self._policy = graph, directory, policy
        self._orders = orders
        self._found = survey(directory.path, graph)
        self._frontier = Frontier(graph, self._found)
        self._journal = Journal(directory, listen, self._progress)
        self._blame = Blame(policy.attempts)

    def begin(self) -> None:
        """Take over what is there, set aside what is damaged, and see what can begin."""
        known, ledger = self._found, self._directory.ledger
        with ledger.transaction():
            ledger.register(self._graph.keys, known.reused)
            there = (*known.reused.values(), *known.kept.values())
            ledger.adopt(stored.manifest for stored in there)
        for unit, mismatches in known.damaged.items():
            damaged = unit_directory(self._directory.path, unit, self._graph.keys[unit])
            self._journal.set_aside(unit, damaged, [str(mismatch) for mismatch in mismatches])
        self._journal.strays_set_aside(self._graph.keys)
        with ledger.transaction():
            self._journal.tell("units-planned", **_planned(known))
            self._journal.decided(self._frontier.begin())

    def loop(self, stopping: threading.Event) -> None:
        """Give orders and hear reports until nothing is left, or the run is stopped."""
        deadline = math.inf
        while time.monotonic() < deadline:
            if stopping.is_set() and deadline == math.inf:
                deadline = time.monotonic() + self._policy.grace
                self._journal.tell("stopping", in_hand=self._orders.units)
                self._orders.stop()
            if deadline == math.inf:
                self._dispatch()
            if not self._orders:
                break
            self._hear(self._orders.hear(POLL_SECONDS), stopped=deadline < math.inf)

    def end(self, stopped: bool) -> Summary:
        """Record what was dropped and how it ended."""
        self._directory.lock.check()
        with self._directory.ledger.transaction():
            for running in self._orders.drop():
                self._journal.interrupted(running.left, "the run was stopped")
            progress = self._progress()
            what = "run-stopped" if stopped else "run-ended"
            self._journal.tell(
                what, done=progress.done, failed=progress.failed, reused=progress.reused
            )
        return Summary(
            progress=progress,
            failures=tuple(self._journal.failures.values()),
            blocked=tuple(self._frontier.blocked),
            stopped=stopped,
        )

    def _dispatch(self) -> None:
        """Begin work on every unit that can begin and finds a worker."""
        while taken := _taken(self._frontier, self._orders):
            group, units, apart = taken
            keys = {unit: self._graph.keys[unit] for unit in units}
            attempts = self._directory.ledger.start(keys, host_name().partition(" ")[0])
            self._orders.give(group, attempts, self._frontier.finished, apart=apart)
            self._journal.started(units)

    def _hear(self, reports: Sequence[WorkReport], stopped: bool) -> None:
        """Commit what was prepared, then put all of it into the ledger in one transaction."""
        committed: list[tuple[int, StoredUnit, int]] = []
        rest: list[WorkReport] = []
        for report in reports:
            if report.unit is None or report.prepared is None:
                rest.append(report)
                continue
            try:
                stored = self._journal.committed(report.unit, report.prepared, self._graph.keys)
            except DamagedError as error:
                rest.append(replace(report, prepared=None, failure=failure_of(error)))
                continue
            attempt = self._orders.unit_ended(report.order, report.unit)
            committed.append((attempt, stored, report.pid))
        ledger = self._directory.ledger
        ledger.finish((attempt, stored.manifest, pid) for attempt, stored, pid in committed)
        with ledger.transaction():
            for _, stored, _ in committed:
                unit, made = stored.manifest.unit, stored.manifest.made
                decisions = self._frontier.finish(unit, stored)
                self._journal.tell("unit-done", unit, seconds=made.seconds)
                self._journal.decided(decisions)
            for report in rest:
                self._hear_bad(report, stopped)

    def _hear_bad(self, report: WorkReport, stopped: bool) -> None:
        """Deal with a failed unit, or with the end of an order."""
        failure = report.failure
        if failure is not None and failure.disk_full:
            raise DiskFullError(failure.error.partition(": ")[2])
        if report.unit is not None and failure is not None:
            attempt = self._orders.unit_ended(report.order, report.unit)
            self._fail(report.unit, attempt, failure)
            return
        running = self._orders.ended(report.order)
        if failure is None:
            self._blame.came_out(running.group)
        if stopped:
            self._journal.interrupted(running.left, "the run was stopped")
        elif failure is not None:
            self._fail_order(running, failure)

    def _fail_order(self, running: Running, failure: Failure) -> None:
        """Deal with an order that ended before its units did.

        Units that are not charged go on, in smaller orders if none of this one was finished, so
        that a unit that kills its worker ends up alone.
        """
        charged = self._blame.charged(running, failure)
        others = {unit: number for unit, number in running.left.items() if unit not in charged}
        if not running.ended_any:
            self._frontier.take_fewer(running.group, len(running.left) // 2)
        self._journal.interrupted(others, failure.error)
        self._frontier.put_back(others)
        for unit in charged:
            self._fail(unit, running.left[unit], failure)

    def _fail(self, unit: UnitId, attempt: int, failure: Failure) -> None:
        """Record a failed attempt; try again if that can help."""
        again = self._blame.again(unit, failure)
        self._journal.failed(unit, attempt, failure, again=again)
        if again:
            self._frontier.put_back([unit])
        else:
            self._journal.decided(self._frontier.give_up(unit))

    def _progress(self) -> Progress:
        return Progress(
            total=len(self._graph.units),
            reused=self._frontier.reused,
            done=len(self._frontier.finished) - self._frontier.reused,
            running=self._orders.units,
            failed=len(self._journal.failures),
            blocked=len(self._frontier.blocked),
        )


def _taken(frontier: Frontier, orders: Orders) -> tuple[Group, list[UnitId], bool] | None:
    """Units for one order that can begin, and whether it is for a worker without a model."""
    if orders.free_apart and (taken := frontier.take_apart(busy=orders.busy)):
        return (*taken, True)
    taken = frontier.take(orders.free, busy=orders.busy)
    return taken and (*taken, False)
