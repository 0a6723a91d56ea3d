"""Run directories and proposals of the same experiment are one entry.

Whoever proposes an experiment and runs it from a terminal, or runs first and proposes afterwards,
sees it once: a run directory whose locked experiment is the one that a proposal names, field by
field, is that proposal's. A proposal that has a run already keeps it.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from steerproof.board import entries, runs
from steerproof.board.entries import Entry
from steerproof.errors import SteerproofError
from steerproof.spec.experiment import Experiment
from steerproof.spec.yaml_io import load_experiment


def take_in(file: Path, places: Iterable[Path]) -> None:
    """Give every run directory its entry: that of its proposal, or a new one.

    Args:
        file: The board's file.
        places: Run directories that were found.
    """
    listed = entries.entries(file)
    waiting = {e.number: e for e in listed if e.experiment is not None and e.directory is None}
    known = {e.directory for e in listed if e.directory is not None}
    fresh = [place for place in places if place not in known]
    if waiting:
        for place in sorted((*fresh, *entries.bare(file))):
            number = _proposal_of(place, waiting.values())
            if number is not None:
                entries.join(file, number, place)
                del waiting[number]
                known.add(place)
    left = {place: runs.title(place) for place in fresh if place not in known}
    if left:
        entries.adopt(file, left)


def _proposal_of(place: Path, waiting: Iterable[Entry]) -> int | None:
    """The oldest proposal without a run that names this run's experiment."""
    locked = runs.experiment(place)
    if locked is None:
        return None
    same = (e.number for e in waiting if _proposed(e.experiment or "") == locked)
    return min(same, default=None)


def _proposed(named: str) -> Experiment | None:
    """The experiment of a file or of a shipped name; none if it cannot be read."""
    try:
        stamp = Path(named).stat().st_mtime_ns
    except OSError:
        stamp = 0  # a shipped name
    return _loaded(named, stamp)


@lru_cache(maxsize=64)
def _loaded(named: str, stamp: int) -> Experiment | None:
    del stamp  # part of the cache key only
    try:
        return load_experiment(named).experiment
    except (SteerproofError, OSError):
        return None
