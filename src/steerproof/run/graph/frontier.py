"""Which units can begin: what each still waits for, and what is queued for the workers."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerproof.run.graph.graph import Graph
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.survey import Survey, made_from
from steerproof.run.store.manifest import StoredUnit

Group = tuple[str, str]

ENOUGH = 64
"""Units of a group that are worth an order before the rest of the group can begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a unit without any work."""

    unit: UnitId
    """Its id."""
    what: str
    """`unit-reused`: it is there, made from what its upstream units hold now; `unit-blocked`:
    a unit that it reads failed."""
    by: Sequence[UnitId] = ()
    """Ids of the units that blocked it."""


class Frontier:
    """The state of a graph that is being worked through."""

    def __init__(self, graph: Graph, surveyed: Survey) -> None:
        """Start from what a survey found."""
        self.finished: dict[UnitId, StoredUnit] = dict(surveyed.reused)
        """Units that are on the disk."""
        self.reused = len(surveyed.reused)
        """How many of them were there before."""
        self.blocked: list[UnitId] = []
        """Units that read a failed one."""
        self._graph = graph
        self._kept = dict(surveyed.kept)
        self._position = {unit: position for position, unit in enumerate(graph.units)}
        self._pending = {
            unit: sum(read not in surveyed.reused for read in graph.units[unit].upstream)
            for unit in surveyed.todo
        }
        self._undecided = Counter(self._group(unit) for unit in surveyed.todo)
        self._queues: dict[Group, deque[UnitId]] = {}
        self._largest: dict[Group, int] = {}

    def begin(self) -> list[Decision]:
        """Queue the units that wait for nothing."""
        decisions: list[Decision] = []
        for unit in [unit for unit, pending in self._pending.items() if pending == 0]:
            self._decide(unit, decisions)
        return decisions

    def finish(self, unit: UnitId, stored: StoredUnit) -> list[Decision]:
        """A unit was done: queue those that waited only for it."""
        self.finished[unit] = stored
        return self.give_up(unit)

    def give_up(self, unit: UnitId) -> list[Decision]:
        """A unit has ended, well or not: decide about those that waited only for it."""
        decisions: list[Decision] = []
        self._release(unit, decisions)
        return decisions

    def take(self, free: int, *, busy: int = 0) -> tuple[Group, list[UnitId]] | None:
        """Units for one order, of the group that comes first in the graph.

        Units of a group share a batch, so a handful that could begin now waits for those that
        other workers are about to make ready, unless there are `ENOUGH`.

        Args:
            free: How many orders can begin now: what is queued is shared among them.
            busy: How many are in hand. They can make more ready, and whoever has one will want a
                share too: no order gets more than that of a whole group.
        """
        if not self._queues or free < 1:
            return None
        worth = [g for g in self._queues if not busy or self._is_worth_it(g)]
        if not worth:
            return None
        group = min(worth, key=lambda group: self._position[self._queues[group][0]])
        queue = self._queues[group]
        share = -(-len(queue) // free)
        limit = self._graph.units[queue[0]].limit
        whole = sum(self._group(unit) == group for unit in self._graph.units)
        fair = -(-whole // (free + busy))
        size = min(share, fair, limit or share, self._largest.get(group, share))
        units = [queue.popleft() for _ in range(size)]
        if not queue:
            del self._queues[group]
        return group, units

    def take_apart(self, *, busy: int = 0) -> tuple[Group, list[UnitId]] | None:
        """Units for one order that needs no model, where there is other work meanwhile.

        Args:
            busy: How many orders that need one are in hand.
        """
        apart = [g for g, queue in self._queues.items() if self._graph.units[queue[0]].apart]
        if not apart or not (busy or len(self._queues) > len(apart)):
            return None
        return apart[0], list(self._queues.pop(apart[0]))

    def put_back(self, units: Iterable[UnitId]) -> None:
        """Queue units again, after those that wait already."""
        for unit in units:
            self._enqueue(unit)

    def take_fewer(self, group: Group, largest: int) -> None:
        """Give at most so many units of a group to a worker from now on."""
        self._largest[group] = max(1, largest)

    def _group(self, unit: UnitId) -> Group:
        node = self._graph.units[unit]
        return node.work, node.group

    def _is_worth_it(self, group: Group) -> bool:
        return not self._undecided[group] or len(self._queues[group]) >= ENOUGH

    def _enqueue(self, unit: UnitId) -> None:
        self._queues.setdefault(self._group(unit), deque()).append(unit)

    def _decide(self, unit: UnitId, decisions: list[Decision]) -> None:
        """Queue, reuse or block a unit all of whose upstream units have ended."""
        self._undecided[self._group(unit)] -= 1
        node = self._graph.units[unit]
        missing = [read for read in node.upstream if read not in self.finished]
        if missing and (not node.tolerant or len(missing) == len(node.upstream)):
            self.blocked.append(unit)
            decisions.append(Decision(unit=unit, what="unit-blocked", by=missing[:10]))
            self._release(unit, decisions)
            return
        kept = self._kept.get(unit)
        if kept is not None and made_from(kept, node, self.finished):
            self.finished[unit] = kept
            self.reused += 1
            decisions.append(Decision(unit=unit, what="unit-reused"))
            self._release(unit, decisions)
            return
        self._enqueue(unit)

    def _release(self, unit: UnitId, decisions: list[Decision]) -> None:
        for reader in self._graph.dependants[unit]:
            if reader in self._pending:
                self._pending[reader] -= 1
                if self._pending[reader] == 0:
                    self._decide(reader, decisions)
