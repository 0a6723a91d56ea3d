"""Firing rates of cells, scored or not yet: what the grid and the comparisons show."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from steerproof.board.runs import story
from steerproof.run.artefacts.cell import COMPLETIONS
from steerproof.run.artefacts.columns import (
    MOST_ROWS,
    UNREADABLE,
    check_size,
    completions_in,
    fired_by_cell,
)
from steerproof.run.artefacts.score import FILE
from steerproof.run.graph.ids import UnitId
from steerproof.run.graph.names import SCORE
from steerproof.run.store.manifest import open_unit
from steerproof.run.store.store import unit_directory
from steerproof.run.store.story import Story
from steerproof.spec.experiment import Experiment
from steerproof.study.readouts.load import text_readout
from steerproof.study.readouts.readable import Marks


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRate:
    """What is known of one cell."""

    state: str
    """`done`, `waiting`, `running`, `failed`, `interrupted` or `damaged`."""
    fired: int | None = None
    """Completions with the marker; none until it is scored."""
    total: int | None = None
    """Completions."""
    error: str | None = None
    """What went wrong."""

    @property
    def rate(self) -> float | None:
        """Share that fired; none until it is scored."""
        return None if not self.total or self.fired is None else self.fired / self.total


def cell_rates(run: Path, names: Iterable[str], experiment: Experiment) -> dict[str, CellRate]:
    """What is known of each of these cells, by name.

    Scored cells come from the score unit. Before that unit exists a finished cell's completions
    are marked here, by the same readout, so that the grid fills while the run goes on.
    """
    told, read = story(run), text_readout(experiment)
    errors = {a.unit: a.error for a in told.attempts if a.state == "failed"}
    scored = _scored(run, told)
    rates: dict[str, CellRate] = {}
    for name in names:
        unit = UnitId("cell", name)
        state = told.states.get(unit, "waiting")
        counted = scored.get(name)
        if counted is None and state == "done" and experiment.scoring.terms.asks == "text":
            place = unit_directory(run, unit, told.keys[unit])
            counted = _remembered(place, lambda place=place: _mark_cell(place, read)).get("")
            state = "damaged" if counted is None else state
        if counted is not None:
            rates[name] = CellRate(state="done", fired=counted[0], total=counted[1])
        else:
            rates[name] = CellRate(state=state, error=errors.get(unit))
    return rates


Counts = dict[str, tuple[int, int]]
"""Fired and total by cell name."""

_counts: dict[Path, Counts] = {}
_counts_lock = threading.Lock()


def _scored(run: Path, told: Story) -> Counts:
    if told.states.get(SCORE) != "done":
        return {}
    place = unit_directory(run, SCORE, told.keys[SCORE])
    return _remembered(place, lambda: _read_scores(place))


def _remembered(place: Path, count: Callable[[], Counts]) -> Counts:
    """Counts of a committed unit; it never changes, so it is read once."""
    with _counts_lock:
        known = _counts.get(place)
    if known is None:
        known = count()
        with _counts_lock:
            _counts[place] = known
    return known


def _read_scores(place: Path) -> Counts:
    try:
        return fired_by_cell(open_unit(place).path(FILE))
    except UNREADABLE:
        return {}


def _mark_cell(place: Path, read: Marks) -> Counts:
    """Fired and total of one unscored cell, under the key `""`; empty if it is damaged."""
    try:
        path = open_unit(place).path(COMPLETIONS)
        check_size(path, MOST_ROWS)
        fired = [read(completion).fired for completion in completions_in(path)]
    except UNREADABLE:
        return {}
    return {"": (sum(fired), len(fired))}
