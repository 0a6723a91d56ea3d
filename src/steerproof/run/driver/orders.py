"""The orders in hand: what was given to which worker, and what of it has not ended."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steerproof.run.driver.executors import Executor
from steerproof.run.driver.worker import Order, OrderItem, WorkReport
from steerproof.run.graph.frontier import Group
from steerproof.run.graph.graph import Graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.doing import doing_place, forget
from steerproof.run.store.store import prepared_units


@dataclass(slots=True)
class Running:
    """An order in hand."""

    group: Group
    left: dict[UnitId, int]
    """Its units that have not ended, with their attempts."""
    apart: bool = False
    """Whether it is for a worker without a model."""
    ended_any: bool = False
    """Whether any of its units has ended."""


class Orders:
    """The orders that an executor was given and has not ended."""

    def __init__(self, graph: Graph, run: Path, token: int, executor: Executor) -> None:
        self._graph = graph
        self._run, self._token = run, token
        self._executor = executor
        self._running: dict[int, Running] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._running)

    @property
    def units(self) -> int:
        """Units in hand."""
        return sum(len(running.left) for running in self._running.values())

    @property
    def free(self) -> int:
        """Orders that can begin now.

        A worker that has done its last unit is free in a moment: what is queued is shared with it
        too, so nothing begins until it says so.
        """
        if any(not running.left for running in self._running.values()):
            return 0
        return self._executor.free()

    @property
    def free_apart(self) -> int:
        """Orders that need no model and can begin beside the others."""
        return self._executor.free_apart()

    @property
    def busy(self) -> int:
        """Orders in hand that are not done apart and have a unit left."""
        return sum(bool(one.left) and not one.apart for one in self._running.values())

    def give(
        self,
        group: Group,
        attempts: Mapping[UnitId, int],
        finished: Mapping[UnitId, object],
        *,
        apart: bool = False,
    ) -> None:
        """Give units to a worker.

        Args:
            group: What they share.
            attempts: The attempt's number of each unit.
            finished: The units that are on the disk.
            apart: Whether it is for a worker without a model.
        """
        items = tuple(
            OrderItem(
                recipe=self._graph.recipes[unit],
                attempt=attempt,
                present=tuple(r for r in self._graph.units[unit].upstream if r in finished),
                context=self._graph.units[unit].context,
            )
            for unit, attempt in attempts.items()
        )
        self._number += 1
        self._running[self._number] = Running(group=group, left=dict(attempts), apart=apart)
        order = Order(
            number=self._number,
            run=self._run,
            work=group[0],
            items=items,
            token=self._token,
            apart=apart,
        )
        self._executor.submit(order)

    def hear(self, seconds: float) -> tuple[WorkReport, ...]:
        """What the workers say, and before it what lost ones could not say any more.

        Args:
            seconds: Longest wait for the first report.
        """
        reports = self._executor.poll(seconds)
        return (*self._unreported(reports), *reports)

    def stop(self) -> None:
        """Ask the workers to end after the unit in hand."""
        self._executor.stop()

    def unit_ended(self, order: int, unit: UnitId) -> int:
        """Note that a unit of an order has ended; returns its attempt."""
        running = self._running[order]
        running.ended_any = True
        return running.left.pop(unit)

    def ended(self, order: int) -> Running:
        """Note that an order has ended; returns what is left of it."""
        forget(doing_place(self._run, self._token, order))  # a lost worker could not
        return self._running.pop(order)

    def drop(self) -> list[Running]:
        """Forget every order."""
        dropped = list(self._running.values())
        self._running.clear()
        return dropped

    def _unreported(self, reports: Sequence[WorkReport]) -> Iterator[WorkReport]:
        """What lost workers had finished on the disk."""
        told = {report.unit for report in reports}
        for report in reports:
            if report.unit is not None or report.failure is None:
                continue
            left = self._running[report.order].left
            for stored in prepared_units(self._run, {unit.kind for unit in left}):
                made = stored.manifest
                if left.get(made.unit) == made.made.attempt and made.unit not in told:
                    yield replace(report, unit=made.unit, prepared=stored.directory, failure=None)
