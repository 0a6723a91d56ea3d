"""Whose fault a failure is: one unit's, or everybody's; and who gets another try."""

from collections import Counter

from steerproof.run.driver.orders import Running
from steerproof.run.driver.worker import Failure
from steerproof.run.graph.frontier import Group
from steerproof.run.graph.ids import UnitId

_COMMON = 3
"""Orders without a unit in common that must end alike before a cause is everybody's."""


class Blame:
    """What went wrong so far in one call of the driver."""

    def __init__(self, attempts: int) -> None:
        """Nothing went wrong yet.

        Args:
            attempts: Most tries at one unit whose failure can pass.
        """
        self._attempts = attempts
        self._charges: Counter[UnitId] = Counter()
        self._failed: dict[tuple[Group, str], list[set[UnitId]]] = {}
        """Units of the smallest orders that ended with an error that cannot pass."""
        self._came_out: set[Group] = set()

    def came_out(self, group: Group) -> None:
        """An order of a group came out: what else fails in it is not everybody's fault."""
        self._came_out.add(group)

    def again(self, unit: UnitId, failure: Failure) -> bool:
        """Charge a unit with a failure; whether to try it again."""
        self._charges[unit] += 1
        return failure.passing and self._charges[unit] < self._attempts

    def charged(self, running: Running, failure: Failure) -> list[UnitId]:
        """Which of an order's units are at fault that it ended before they did.

        If the cause can pass, the first unit left is taken to be the one in hand. A cause that
        cannot pass may be one unit's too: none is charged until the unit is alone, or until it is
        plain that the cause is everybody's.
        """
        left = list(running.left)
        if failure.passing:
            return left[:1]
        return left if len(left) == 1 or self._everybodys(running, failure) else []

    def _everybodys(self, running: Running, failure: Failure) -> bool:
        """Whether an error is no single unit's.

        That is so when orders without a unit in common ended with it, `_COMMON` of them, and no
        unit of their kind ever came out.
        """
        if running.ended_any:
            self.came_out(running.group)
        units = set(running.left)
        failed = self._failed.setdefault((running.group, failure.error), [])
        failed[:] = [*(other for other in failed if not units & other), units]
        return len(failed) >= _COMMON and running.group not in self._came_out
