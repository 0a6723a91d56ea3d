"""How long a run will go on, from what was seen of this call and what its workers are at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerproof.run.store.doing import Doing
from steerproof.run.store.story import Event, Story

_LEAST = 1.0
"""Seconds left while anything is: it is never nothing."""
_TELLING = 0.01
"""Share of an order that must be done before it tells a speed: a first step holds compilation, and
the first completion to end tells nothing of the others."""
_ENDED = ("unit-done", "unit-reused", "unit-blocked", "unit-failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left of a run."""

    seconds: float
    untimed: Mapping[str, int]
    """Units by kind of which nothing was timed yet: with them it takes longer than that."""


class Pace:
    """Counts the events of one call of the driver.

    A kind of unit counts once some of its work was done in this call, inside a unit or with it;
    until then what is known of the others is the least that it can take. Units that were reused do
    not count. Times are of any clock, as long as it is always the same.
    """

    def __init__(self) -> None:
        """Nothing was seen."""
        self._since: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._todo: dict[str, int] = {}

    def note(self, event: Event, now: float) -> None:
        """Count an event that happened now."""
        if event.what == "units-planned":
            self._todo = dict(event.detail.get("kinds", {}))
        if event.unit is None:
            return
        kind = event.unit.kind
        if event.what == "unit-started":
            self._since.setdefault(kind, now)
        elif event.what == "unit-done":
            self._done[kind] = self._done.get(kind, 0) + 1
        elif event.what in _ENDED:
            self._todo[kind] = self._todo.get(kind, 0) - 1

    def left(self, now: float, doing: Sequence[Doing] = ()) -> Left | None:
        """Seconds until all is done; None if nothing can be said yet.

        Args:
            now: By the clock of the events.
            doing: What the workers are at.
        """
        telling = [one for one in doing if one.share >= _TELLING]
        ahead, speed = _ahead(telling), _speed(telling)
        seconds, known = 0.0, False
        untimed: dict[str, int] = {}
        for kind, todo in self._todo.items():
            done = self._done.get(kind, 0)
            if todo <= done:
                continue
            worth = min(done + ahead.get(kind, 0.0), todo)
            if kind in speed:
                known = True
                seconds += (todo - worth) / speed[kind]
            elif worth > 0 and kind in self._since:
                known = True
                seconds += (now - self._since[kind]) / worth * (todo - worth)
            else:
                untimed[kind] = todo - done
        return Left(seconds=max(seconds, _LEAST), untimed=untimed) if known else None


def pace_of(story: Story) -> Pace:
    """The pace of the last call of the driver, as its ledger tells it; times are Unix times."""
    pace = Pace()
    began = story.last("run-started")
    if began is None:
        return pace
    for attempt in story.attempts:
        if attempt.started >= began.time:
            started = Event(time=attempt.started, what="unit-started", unit=attempt.unit, detail={})
            pace.note(started, attempt.started)
    for event in story.events[story.events.index(began) :]:
        pace.note(event, event.time)
    return pace


def _ahead(doing: Sequence[Doing]) -> Mapping[str, float]:
    """Units' worth of work done in units that have not ended, by kind."""
    ahead: dict[str, float] = {}
    for one in doing:
        ahead[one.kind] = ahead.get(one.kind, 0.0) + one.units_ahead
    return ahead


def _speed(doing: Sequence[Doing]) -> Mapping[str, float]:
    """Units' worth of work done in a second just now, by kind, where workers say so.

    Better than the mean since a kind began, which holds the time that it took to begin.
    """
    speed: dict[str, float] = {}
    for one in doing:
        if one.per_second and one.total:
            speed[one.kind] = speed.get(one.kind, 0.0) + one.units * one.per_second / one.total
    return speed
