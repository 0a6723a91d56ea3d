"""Units that another run directory holds already: the same key is the same work, so it is shared.

A unit is taken over whole: its files are linked, or copied where the file system links nothing, and
verified against its manifest before it exists here. Its manifest keeps saying when and where it was
made. Whether it was read by what is there now is decided by the survey, as of every other unit.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from steerproof.codec import from_values
from steerproof.run.graph.graph import Graph, Unit
from steerproof.run.graph.ids import UnitId
from steerproof.run.store.directory import RunDirectory
from steerproof.run.store.files import explained, make_directory, sync_directory, temporary_name
from steerproof.run.store.manifest import DamagedError, StoredUnit
from steerproof.run.store.store import commit, unit_directory
from steerproof.run.store.story import Story

_EVENT = "borrowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """What was taken over."""

    units: tuple[UnitId, ...] = ()
    seconds: float = 0.0
    """Work that their manifests say they took."""


def borrow(directory: RunDirectory, graph: Graph, others: Sequence[Path]) -> Borrowed:
    """Take over every unit of a graph that other run directories hold, whole and under its key.

    Args:
        directory: Held by this process.
        graph: What is needed here.
        others: Run directories to look into, in this order.

    Raises:
        DiskFullError: No space.
        LockedError: Another process took the run directory over.
    """
    directory.lock.check()
    taken: list[StoredUnit] = []
    for unit in graph.units.values():
        key = graph.keys[unit.id]
        if unit_directory(directory.path, unit.id, key).exists():
            continue
        for other in others:
            elsewhere = unit_directory(other, unit.id, key)
            with suppress(DamagedError):  # of another run: it is that run's to mend
                if elsewhere.is_dir():
                    taken.append(_taken(directory.path, elsewhere, unit, key))
                    break
    seconds = sum((stored.manifest.made.seconds for stored in taken), 0.0)
    if taken:
        directory.ledger.add_event(_EVENT, units=len(taken), seconds=seconds)
    return Borrowed(units=tuple(stored.manifest.unit for stored in taken), seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowing:
    """What the ledger keeps of one time that units were taken over."""

    units: int
    seconds: float


def borrowings(story: Story) -> list[Borrowing]:
    """Every time that units were taken over from elsewhere.

    Raises:
        IntegrityError: An event of the ledger is not what was written.
    """
    told = (event for event in story.events if event.what == _EVENT)
    return [from_values(Borrowing, event.detail, f"a {_EVENT} event") for event in told]


def _taken(run: Path, elsewhere: Path, unit: Unit, key: str) -> StoredUnit:
    parent = run / "units" / unit.id.kind
    make_directory(parent)
    temporary = parent / temporary_name()
    try:
        with explained(parent, 0):
            shutil.copytree(elsewhere, temporary, copy_function=_linked)
            sync_directory(temporary)
        return commit(run, temporary, unit.id, key)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
